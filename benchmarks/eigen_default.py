"""The default transformer and its training against the published ones, for equal time.

    python -m benchmarks.eigen_default [--minutes=4]

2 × 2 matrices in P10, fresh ones all the time, on all devices. Each side trains for the same time:
a few steps are timed first, and its schedule is made for as many steps as the time allows (a
warm-up takes a tenth of them at most). Each at its own size, and both at the size of the demo, for
at its own the published model sees few examples on a CPU.
"""

import dataclasses
import itertools
import time

from absl import app, flags

from benchmarks.common import Results
from configs.eigen import lawt
from synthjax.eigen import Spec, model
from synthjax.eigen.measure import TOLERANCES
from synthjax.eigen.task import EigenTask
from synthjax.io.watchdog import Watchdog
from synthjax.nn import sharding
from synthjax.protocol.training_set import at_once, groups

_MINUTES = flags.DEFINE_float("minutes", 4.0, "How long each model is trained.")

TASK = dict(size_min=2, size_max=2, encoding="P10", n_real=10**8, generations=0, n_test=2000)
SMALL = dict(width=64, heads=4, encoder_layers=2, decoder_layers=1)
TRAINED = (
    *("width", "heads", "encoder_layers", "decoder_layers", "feed_forward", "activation"),
    *("pre_norm", "tied", "batch", "learning_rate", "warmup", "weight_decay", "clip", "b2"),
)
PUBLISHED = {name: getattr(lawt(), name) for name in TRAINED}


class Endless(EigenTask):
    """Batches in the order of their numbers, each example new."""

    def batches(self, t, data, first):
        for step in range(first, self.steps(t)):
            at = range(step * self.spec.batch, (step + 1) * self.spec.batch)
            yield data.sources[0].rows(list(at))


def train(spec: Spec) -> tuple[EigenTask, object, float]:
    """The state after all steps, and the seconds of one, those compiled for not counted."""
    task = Endless(spec, sharding.mesh(), {})
    begun, done, first = time.perf_counter(), 0, 0
    batches = task.batches(0, task.pool(0, None, ()), 0)
    some = groups(batches, itertools.repeat(at_once()))
    for state, metrics in task.learn(0, task.begin(0, None), some):
        done += len(metrics)
        if metrics and not first:
            first, begun = done, time.perf_counter()
        last = state
    return task, last, (time.perf_counter() - begun) / max(done - first, 1)


def main(argv: list[str]) -> None:
    results = Results("eigen_default")
    sides = {"published": PUBLISHED, "default": {}}
    for size, shape in (("its own", {}), ("the demo's", SMALL)):
        for name, fields in sides.items():
            spec = Spec(**TASK, **{**fields, **shape}, steps=20)
            _, _, seconds = train(spec)
            steps = max(int(60 * _MINUTES.value / seconds), 20)
            warmup = min(spec.warmup, steps // 10)
            spec = dataclasses.replace(spec, steps=steps, warmup=warmup)
            task, state, seconds = train(spec)
            with Watchdog() as watchdog:
                record = task.measure(0, task.params(state), watchdog)
            results.add(
                model=name,
                size=size,
                parameters=model.build(task.language).size,
                minutes=round(seconds * steps / 60, 2),
                examples=steps * spec.batch,
                test_loss=round(float(record["loss"]), 4),
                accuracy={
                    f"{tau:.1%}": round(float(value), 4)
                    for tau, value in zip(TOLERANCES, record["accuracy"][:, 0], strict=True)
                },
            )


if __name__ == "__main__":
    app.run(main)
