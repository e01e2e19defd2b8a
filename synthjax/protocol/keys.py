"""One PRNG key per (stream, trajectory, generation), derived and never threaded through loops.

A trajectory therefore draws the same numbers alone, in a batch, in a chunk, resumed and on
another host. Nothing about the sweep enters the key: two points of a sweep see the same features
and the same coins (common random numbers), so their difference is less noisy than either, and a
value's result does not depend on the other values of its axis.
"""

import enum

import jax
from jaxtyping import Array, Int, Key


class Stream(enum.IntEnum):
    """What a key is for. Values are part of the results: append, never renumber."""

    FEATURES = 0
    REAL = 1
    GENERATE = 2
    VERIFY = 3


def key(
    seed: Int[Array, ""] | int,
    stream: Stream,
    trajectory: Int[Array, ""] | int,
    generation: Int[Array, ""] | int,
) -> Key[Array, ""]:
    """The key of one stream in one generation of one trajectory; all of them may be traced.

    The generator is threefry whatever the process's default, so that a seed means one thing.
    """
    base = jax.random.key(seed, impl="threefry2x32")
    for index in (int(stream), trajectory, generation):
        base = jax.random.fold_in(base, index)
    return base
