"""Training sets of the transformer tasks: rows of several sources, in an order of their own.

A row is made when it is asked for, on the host; what a training step sees depends on its number
alone, so that training goes on after an interruption with the very batch that would have come.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from synthjax import host
from synthjax.protocol.regime import Regime

Rows = Any  # a pytree of NumPy arrays with a leading axis of rows


class Source(Protocol):
    """Examples of one origin, numbered from 0."""

    def __len__(self) -> int:
        """How many there are."""

    def rows(self, indices: Int[np.ndarray, " b"]) -> Rows:
        """The examples of those numbers."""


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """The rows of `sources` one after another, or those of them that are `chosen`."""

    sources: Sequence[Source]
    chosen: Int[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        if self.chosen is not None:
            return len(self.chosen)
        return sum(map(len, self.sources))

    def rows(self, indices: Int[np.ndarray, " b"]) -> Rows:
        """The rows of those numbers, in their order."""
        if self.chosen is not None:
            indices = self.chosen[indices]
        ends = np.cumsum([len(source) for source in self.sources])
        of = np.searchsorted(ends, indices, side="right")
        found = None
        for i in np.unique(of):
            at = np.flatnonzero(of == i)
            part = self.sources[i].rows(indices[at] - (ends[i] - len(self.sources[i])))
            if found is None:
                found = jax.tree.map(
                    lambda leaf: np.empty((len(indices), *leaf.shape[1:]), leaf.dtype), part
                )
            jax.tree.map(lambda whole, leaf, at=at: whole.__setitem__(at, leaf), found, part)
        return found


def pool(
    regime: Regime,
    key: Key[Array, ""],
    n: int,
    kept: Source | None,
    past: Sequence[Source],
    real: Source | None,
) -> TrainingSet:
    """What a generation is trained on.

    Args:
      key: for which rows `subsample` takes.
      n: examples of a generation, which is what `subsample` takes at most.
      kept: the guesses kept in this generation, or None where there are none.
      past: what the first generator was trained on, and all that was kept before.
      real: fresh real examples, for `mix`.
    """
    sources = [source for source in (kept, real if regime.real else None) if source is not None]
    if regime.past:
        sources = [*past, *sources]
    whole = TrainingSet(tuple(sources))
    if regime.subsample and len(whole) > n:
        return dataclasses.replace(whole, chosen=shuffled(key, len(whole))[:n])
    return whole


def batches(
    data: TrainingSet,
    key: Key[Array, ""],
    size: int,
    numbers: range,
    here: Int[np.ndarray, " r"],
) -> Iterator[Rows]:
    """Of batches of `size` rows with these numbers the rows `here`, made while others are used.

    Every epoch has an order of its own; a batch may hold the end of one and the beginning of the
    next.
    """
    orders: dict[int, np.ndarray] = {}

    def make(step):
        at = step * size + here
        epochs = at // len(data)
        wanted = range(int(epochs[0]), int(epochs[-1]) + 1)  # rows ascend
        for epoch in set(orders) - set(wanted):
            del orders[epoch]
        for epoch in wanted:
            if epoch not in orders:
                orders[epoch] = shuffled(jax.random.fold_in(key, epoch), len(data))
        order = [orders[int(epoch)][i] for epoch, i in zip(epochs, at % len(data), strict=True)]
        return data.rows(np.array(order))

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming = None
        for step in numbers:
            batch = coming.result() if coming else make(step)
            coming = thread.submit(make, step + 1) if step != numbers[-1] else None
            yield batch


class Group(NamedTuple):
    """Batches for one program: along a leading axis of arrays, of which the first `count` count."""

    batches: Rows
    count: int


def at_once() -> int:
    """How many training steps a program takes at most.

    Each time that it runs the system gives a CPU's program fresh memory, page by page; several
    steps pay for that once.
    """
    return 4 if jax.default_backend() == "cpu" else 1


def groups(batches: Iterator[Rows], sizes: Iterable[int]) -> Iterator[Group]:
    """So many batches at a time as `sizes` says, none more than `at_once`, until either ends."""
    room = at_once()
    for size in sizes:
        some = list(itertools.islice(batches, size))
        if not some:
            return
        filled = some + some[-1:] * (room - len(some))
        yield Group(jax.tree.map(lambda *rows: np.stack(rows), *filled), len(some))


def shuffled(key, n: int) -> Int[np.ndarray, " n"]:
    """The numbers below n in an order of the key's."""
    with jax.threefry_partitionable(False), jax.default_device(host()):
        drawn = np.asarray(jax.random.bits(key, (n,), np.uint32))
    return np.argsort(drawn, kind="stable")
