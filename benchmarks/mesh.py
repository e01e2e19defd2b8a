"""What it costs to be several processes, and what a mesh costs a single device.

    python -m benchmarks.mesh

Part `processes`: the same two cores as one process of two devices, and as two processes of one each
that find each other over loopback (gloo), in turns. Training the eigenvalues' transformer (each
makes its rows of a batch), and a sweep of the mixture into a workdir, results and all. Each does it
once before it is measured, so that nothing is compiled.

Part `one_device`: a training step of both transformers on a mesh of one device, as every run has
it, against the same step without a mesh, in turns in one process.
"""

import dataclasses
import functools
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from benchmarks.common import Results, interleaved, ratio
from configs.mixture import breakdown
from synthjax import eigen, mixture, summarize
from synthjax.eigen.task import EigenTask
from synthjax.io import processes
from synthjax.nn import llama, seq2seq, sharding, train
from synthjax.protocol.training_set import at_once, groups

TURNS, STEPS = 3, 20
SPEC = eigen.Spec(width=128, heads=8, batch=64, steps=2 * STEPS, n_real=10_000, generations=0)
LLAMA = summarize.Spec(width=160, layers=4, heads=4, kv_heads=2, feed_forward=432)

_WORK = flags.DEFINE_enum("work", None, ["training", "sweep"], "Be a process that does this.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Where both processes meet.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is.")
_FOLDER = flags.DEFINE_string("folder", None, "What they share.")


def training() -> tuple[float, str]:
    """Examples a second, their batches made and put on the devices."""
    task = EigenTask(SPEC, sharding.mesh(SPEC.mesh), {})
    state = task.begin(0, None)
    batches = task.batches(0, task.pool(0, None, ()), 0)
    done = before = 0
    for _, metrics in task.learn(0, state, groups(batches, itertools.repeat(at_once()))):
        done += len(metrics)
        if not before and done >= STEPS:
            before, began = done, time.perf_counter()
    return (done - before) * SPEC.batch / (time.perf_counter() - began), "examples"


def sweep() -> tuple[float, str]:
    """Trajectories a second."""
    spec = breakdown(n=4000, d=50, trajectories=20, steps=33)
    mixture.run(spec, Path(_FOLDER.value) / "before")
    began = time.perf_counter()
    mixture.run(dataclasses.replace(spec, seed=1), Path(_FOLDER.value) / "measured")
    points = 33 * len(spec.sweep["psi"])
    return points * spec.trajectories / (time.perf_counter() - began), "trajectories"


def measured(work: str, count: int) -> dict:
    """What the first of so many processes says."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("localhost", 0))
        meet = f"localhost:{free.getsockname()[1]}"
        free.close()
        where = os.environ | {"JAX_NUM_CPU_DEVICES": str(2 // count)}
        asked = [sys.executable, "-m", "benchmarks.mesh", f"--work={work}", f"--folder={folder}"]
        both = [
            subprocess.Popen(
                [*asked, *([f"--coordinator={meet}", f"--process={i}"] if count > 1 else [])],
                env=where,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for i in range(count)
        ]
        said = [process.communicate()[0] for process in both]
    if any(process.returncode for process in both):
        raise RuntimeError(f"{work}: a process ended with {[one.returncode for one in both]}")
    return json.loads(said[0].splitlines()[-1])


def one_device(results: Results) -> None:
    """Training steps with and without a mesh."""
    rng = np.random.default_rng(0)
    device = jax.local_devices()[0]
    mesh = sharding.mesh(devices=[device])
    writes = eigen.model.build(eigen.model.language_of(SPEC))
    sizes = eigen.data.lengths(5, SPEC.numbers)
    rows = seq2seq.Batch(*(rng.integers(3, 1000, (64, size), np.int32) for size in sizes))
    reads = llama.build(LLAMA.architecture(2048))
    tokens = rng.integers(3, 2048, (16, 160), np.int32)
    told = llama.Batch(tokens, np.ones(tokens.shape, np.float32))
    for name, model, loss, axes, batch in (
        ("eigen", writes, seq2seq.loss(writes, 0), seq2seq.axes, rows),
        ("llama", reads, llama.loss(reads), llama.axes, told),
    ):
        trainer = train.trainer(loss, train.Schedule(steps=10**6))
        params = model.init(jax.random.key(0))
        places = functools.partial(sharding.places, mesh, axes)

        def steps(step, state, batch):
            def several():
                nonlocal state
                for _ in range(STEPS):
                    state, metrics = step(state, batch)
                jax.block_until_ready(metrics)

            return several

        seconds = interleaved(
            {
                "mesh": steps(
                    sharding.on(mesh, trainer.step),
                    sharding.begun(trainer.begin, params, places),
                    sharding.put(batch, sharding.by_rows(mesh)),
                ),
                "plain": steps(trainer.step, trainer.begin(params), jax.device_put(batch, device)),
            },
            TURNS,
        )
        results.add(
            part="one_device",
            model=name,
            ratio=round(ratio(seconds["mesh"], seconds["plain"]), 3),
            step_s={of: round(statistics.median(s) / STEPS, 4) for of, s in seconds.items()},
            turns=TURNS,
        )


def several(results: Results) -> None:
    """One and two processes, in turns."""
    for work in WORK:
        found = {1: [], 2: []}
        for _ in range(TURNS):
            for count, rates in found.items():
                said = measured(work, count)
                rates.append(said["rate"])
        results.add(
            part="processes",
            work=work,
            ratio=round(ratio(found[2], found[1]), 3),
            **{f"{said['unit']}_per_s": {c: round(statistics.median(r)) for c, r in found.items()}},
            turns=TURNS,
        )


WORK = {"training": training, "sweep": sweep}


def main(argv: list[str]) -> None:
    if _WORK.value:
        if _COORDINATOR.value:
            processes.begin(_COORDINATOR.value, 2, _PROCESS.value)
        rate, unit = WORK[_WORK.value]()
        print(json.dumps({"rate": rate, "unit": unit}))
        return
    results = Results("mesh")
    several(results)
    one_device(results)


if __name__ == "__main__":
    app.run(main)
