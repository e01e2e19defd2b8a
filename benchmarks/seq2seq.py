"""Training and beam search of the encoder–decoder against the same in PyTorch, interleaved.

    python -m benchmarks.seq2seq [--part=training|beam]

5 × 5 matrices in P1000, float32, the CPU with all its cores: synthjax with a device per core, a
batch over all of them; PyTorch in a process of its own with a thread per core. Parameters are
random on both sides, so that hardly a beam ends before its time. Medians over the turns.

- training: examples/s at widths 128 and 256, 4/1 layers, batches of 64, as many steps in a program
  as a run takes.
- beam: guesses/s for k = 10 and 50, 64 sources at a time.
"""

import concurrent.futures
import multiprocessing
import statistics
import time

import jax
import numpy as np
from absl import app, flags

import synthjax
from benchmarks.common import Results, ratio
from synthjax.eigen.data import Matrices, lengths, source_ids, target_ids
from synthjax.eigen.tokens import BOS, ENCODINGS, EOS, PAD
from synthjax.nn import decode, seq2seq, sharding, train
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.training_set import at_once, groups

_PART = flags.DEFINE_enum("part", None, ["training", "beam"], "Only this part.")

SYMBOLS = decode.Symbols(PAD, BOS, EOS)
ROWS, STEPS, TURNS = 64, 12, 5


def architecture(width: int, encoding) -> seq2seq.Architecture:
    source, target = lengths(5, encoding)
    return seq2seq.Architecture(
        len(encoding.symbols), source, target, width=width, heads=width // 32
    )


def spread(tree, rows: bool):
    """Over all devices: by rows, or whole on each."""
    place = sharding.by_rows if rows else sharding.whole
    return jax.device_put(tree, place(sharding.mesh()))


def timed(call) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def compare(results: Results, work: int, unit: str, ours, theirs, **facts) -> None:
    """Turns of both sides; `ours` and `theirs` give the seconds of a turn, compiled before."""
    compiled = timed(ours)
    sides = {"synthjax": [], "pytorch": []}
    for _ in range(TURNS):
        sides["synthjax"].append(timed(ours))
        sides["pytorch"].append(theirs())
    each = {f"{name}_{unit}_per_s": work / statistics.median(s) for name, s in sides.items()}
    results.add(
        **facts,
        **{name: round(value) for name, value in each.items()},
        ratio=round(ratio(sides["pytorch"], sides["synthjax"]), 2),
        first_s=round(compiled, 1),
        turns=TURNS,
    )


def same(alone, a, model, params, source, length: int) -> None:
    """Raises where the peer, given the same parameters, finds other guesses: then it is no peer."""
    from benchmarks.peers.seq2seq import guesses

    found = decode.beam_search(model, params, source, 5, SYMBOLS, length)
    asked = a, jax.tree.map(np.asarray, params), source, 5, SYMBOLS, length
    tokens, scores = alone.submit(guesses, *asked).result()
    np.testing.assert_allclose(scores, found.log_prob, atol=1e-3)
    if (alike := (tokens == found.tokens).all(-1).mean()) < 0.98:  # of equal scores, any order
        raise AssertionError(f"only {alike:.0%} of the peer's guesses are the same")


def training(results: Results, alone) -> None:
    from benchmarks.peers.seq2seq import training_seconds

    encoding = ENCODINGS["P1000"](-8, 4)
    examples = Matrices().draw(key(0, Stream.REAL, 0, 0), np.arange(ROWS))
    source = source_ids(examples, encoding)
    target = target_ids(examples.values, examples.sizes, encoding)
    room = at_once()
    for width in (128, 256):
        a = architecture(width, encoding)
        model = seq2seq.build(a)
        trainer = train.trainer(seq2seq.loss(model, PAD), train.Schedule(steps=10**6))
        batch = seq2seq.Batch(source, target)
        group = next(groups(iter([batch] * room), [room]))
        batches = sharding.put_batches(sharding.mesh(), group.batches, ROWS)
        state = spread(trainer.begin(model.init(jax.random.key(0))), rows=False)

        def ours():
            nonlocal state
            for _ in range(STEPS // room):
                state, metrics = trainer.several(state, batches, room)  # noqa: B023
            return metrics

        def theirs():
            asked = (a, source, target, STEPS, synthjax.cores())  # noqa: B023
            return alone.submit(training_seconds, *asked).result()

        compare(results, ROWS * STEPS, "examples", ours, theirs, part="training", width=width)


def beam(results: Results, alone) -> None:
    from benchmarks.peers.seq2seq import beam_seconds

    encoding = ENCODINGS["P1000"](-8, 4)
    examples = Matrices().draw(key(0, Stream.FEATURES, 0, 1), np.arange(ROWS))
    source = source_ids(examples, encoding)
    a = architecture(256, encoding)
    model, length = seq2seq.build(a), lengths(5, encoding)[1] - 1
    params = spread(model.init(jax.random.key(0)), rows=False)
    same(alone, a, model, params, source, length)
    rows = spread(source, rows=True)
    for k in (10, 50):
        search = jax.jit(lambda p, s, k=k: decode.beam_search(model, p, s, k, SYMBOLS, length))

        def theirs():
            asked = (a, source, k, SYMBOLS, length, synthjax.cores())  # noqa: B023
            return alone.submit(beam_seconds, *asked).result()

        compare(
            results,
            ROWS * k,
            "guesses",
            lambda: search(params, rows),  # noqa: B023
            theirs,
            part="beam",
            width=256,
            k=k,
        )


def main(argv: list[str]) -> None:
    parts = {"training": training, "beam": beam}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as alone:
        for name in (_PART.value,) if _PART.value else parts:
            parts[name](Results(f"seq2seq_{name}"), alone)


if __name__ == "__main__":
    app.run(main)
