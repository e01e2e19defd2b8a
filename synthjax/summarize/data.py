"""Training data of language models: examples, and the grain pipeline from them to batches.

A batch depends on its number alone: each epoch has an order of its own, examples are put together
into rows of `block` tokens in that order, and a row is made when it is asked for.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from synthjax.nn.llama import Batch
from synthjax.protocol.training_set import Source, shuffled

Host = np.ndarray
OPEN = 16  # rows that wait for an example which fits


class Example(NamedTuple):
    """Texts, padded: `tokens`, how many there are, and how many of them are the prompt's."""

    tokens: Int[Host, "b t"]
    length: Int[Host, " b"]
    prompt: Int[Host, " b"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Texts one after another in `tokens`; text i ends before `ends[i]`. A `Source`."""

    tokens: Int[Host, " all"]
    ends: Int[Host, " n"]
    prompt: Int[Host, " n"]
    block: int

    def __len__(self) -> int:
        return len(self.ends)

    def rows(self, indices: Int[Host, " b"]) -> Example:
        """The texts of those numbers."""
        begins = np.concatenate([[0], self.ends[:-1]])
        found = np.zeros((len(indices), self.block), np.int32)
        for row, i in enumerate(indices):
            text = self.tokens[begins[i] : self.ends[i]]
            found[row, : len(text)] = text
        return Example(found, (self.ends - begins)[indices], self.prompt[indices])


def examples(
    prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], block: int
) -> Examples:
    """Prompts with their targets; those that do not fit into a block are left out."""
    pairs = [(p, t) for p, t in zip(prompts, targets, strict=True) if len(p) + len(t) <= block]
    lengths = np.array([len(p) + len(t) for p, t in pairs], np.int64)
    tokens = np.array([token for p, t in pairs for part in (p, t) for token in part], np.int32)
    return Examples(tokens, np.cumsum(lengths), np.array([len(p) for p, _ in pairs]), block)


def batches(
    data: Source,
    key: Key[Array, ""],
    size: int,
    block: int,
    numbers: range,
    here: Int[Host, " r"],
    *,
    pack: bool = False,
    article_loss: float = 0.0,
) -> Iterator[Batch]:
    """Of batches with these numbers the rows `here`, made while the ones before are used.

    Args:
      data: whose rows are `Example`s.
      key: for the order of every epoch.
      size: rows of a batch; block: tokens of a row.
      pack: whether texts share rows.
      article_loss: the weight of the loss of a prompt's tokens; that of a summary's is 1.
    """
    plan = _plan(data, key, size * numbers.stop, block if pack else 0)
    rows = [plan[step * size + i] for step in numbers for i in here]
    made = (
        grain.MapDataset.source(rows)
        .map(lambda numbers: _row(data.rows(np.array(numbers)), block, pack, article_loss))
        .batch(len(here))
    )
    reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    yield from made.to_iter_dataset(reading)


def _plan(data: Source, key, count: int, room: int) -> list[tuple[int, ...]]:
    """Which examples are in each of the first `count` rows."""
    n, epoch, rows = len(data), 0, []
    lengths = None
    if room:
        parts = [np.arange(i, min(i + 1024, n)) for i in range(0, n, 1024)]
        lengths = np.concatenate([data.rows(part).length for part in parts])
    while len(rows) < count:
        order = shuffled(jax.random.fold_in(key, epoch), n)
        epoch += 1
        if lengths is None:
            rows += [(int(i),) for i in order]
        else:
            rows += _packed(order, lengths, room)
    return rows[:count]


def _packed(order, lengths, room: int) -> list[tuple[int, ...]]:
    """Examples in rows of `room` tokens: each in the first row, of the last few, that has room."""
    done, waiting = [], []
    for i in order:
        for row in waiting:
            if row[0] >= lengths[i]:
                break
        else:
            row = [room]
            waiting.append(row)
            if len(waiting) > OPEN:
                done.append(tuple(waiting.pop(0)[1:]))
        row[0] -= lengths[i]
        row.append(int(i))
    return done + [tuple(row[1:]) for row in waiting]


def _row(found: Example, block: int, pack: bool, article_loss: float) -> Batch:
    """The examples of a row."""
    tokens, segments, positions = (np.zeros(block, np.int32) for _ in range(3))
    told: Float[Host, " t"] = np.zeros(block, np.float32)
    at = 0
    for i, length in enumerate(found.length):
        here = slice(at, at + length)
        tokens[here] = found.tokens[i, :length]
        segments[here], positions[here] = i + 1, np.arange(length)
        told[at + 1 : at + length] = article_loss  # the first follows nothing
        told[at + found.prompt[i] : at + length] = 1
        at += length
    return Batch(tokens, told, segments, positions) if pack else Batch(tokens, told)
