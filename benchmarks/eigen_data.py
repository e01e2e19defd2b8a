"""How fast training examples are made: a GPU that trains 30,000 a second must not wait.

    python -m benchmarks.eigen_data

5 × 5 matrices in P1000, batches of 256, as `synthjax.protocol.training_set` hands them to training:
fresh ones, and kept guesses of a generation. One thread makes them, on one core, while the device
trains. The peer makes one example after another. Medians over the turns, interleaved.
"""

import statistics

import jax
import numpy as np
from absl import app

from benchmarks.common import Results, interleaved, ratio
from benchmarks.peers.eigen_data import make
from synthjax.eigen import Spec, model
from synthjax.eigen.task import Kept, Real
from synthjax.protocol import training_set
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.training_set import TrainingSet

BATCH, COUNT, TURNS, FEWER = 256, 200, 5, 20


def main(argv: list[str]) -> None:
    results, spec = Results("eigen_data"), Spec()
    encoding = model.numbers(model.language_of(spec))
    ids = {symbol: i for i, symbol in enumerate(encoding.symbols)}
    n = 10**6
    real = Real(spec.matrices, encoding, key(0, Stream.REAL, 0, 0), n)
    target = np.ones((n, spec.architecture.target_length), np.uint16)
    index = np.arange(n)
    kept = Kept(spec.matrices, encoding, key(0, Stream.FEATURES, 0, 1), index, target)
    own = jax.random.key(0)

    def ours(source):
        for _ in training_set.batches(
            TrainingSet((source,)), own, BATCH, range(COUNT), np.arange(BATCH)
        ):
            pass

    def peer():
        rng = np.random.default_rng(0)
        for _ in range(BATCH * COUNT // FEWER):
            make(rng, 5, spec.bound, ids)

    sides = {"real": lambda: ours(real), "kept": lambda: ours(kept), "peer": peer}
    seconds = interleaved(sides, TURNS)
    for name in ("real", "kept"):
        results.add(
            source=name,
            examples_per_s=round(BATCH * COUNT / statistics.median(seconds[name])),
            peer_examples_per_s=round(BATCH * COUNT / FEWER / statistics.median(seconds["peer"])),
            ratio=round(ratio(seconds["peer"], seconds[name], 1 / FEWER), 1),
            turns=TURNS,
        )


if __name__ == "__main__":
    app.run(main)
