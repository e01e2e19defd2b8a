"""One PRNG key per (stream, trajectory, generation), derived and never threaded through loops.

A trajectory therefore draws the same numbers alone, in a batch, in a chunk, resumed and on
another host. Nothing about the sweep enters the key: two points of a sweep see the same features
and the same coins (common random numbers), so their difference is less noisy than either, and a
value's result does not depend on the other values of its axis.
"""

import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

# Rows that share a key. A row's numbers depend on its block alone, so n rows are the first n of any
# longer draw, whatever the shape of the array that holds them.
BLOCK = 64


class Stream(enum.IntEnum):
    """What a key is for. Values are part of the results: append, never renumber."""

    FEATURES = 0
    REAL = 1
    GENERATE = 2
    VERIFY = 3
    SELECT = 4
    SUBSAMPLE = 5
    LEARN = 6
    TEST = 7


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


def _blocks(key: Key[Array, ""], rows: int) -> Key[Array, " blocks"]:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(-(-rows // BLOCK)))


def normal_rows(key: Key[Array, ""], rows: int, d: int) -> Float[Array, "rows d"]:
    """Standard normals; the first rows are the same however many are drawn."""
    drawn = jax.vmap(lambda k: jax.random.normal(k, (BLOCK, d)))(_blocks(key, rows))
    return drawn.reshape(-1, d)[:rows]


def uniform_rows(key: Key[Array, ""], rows: int) -> Float[Array, " rows"]:
    """Uniforms in [0, 1), one a row; the first are the same however many are drawn."""
    drawn = jax.vmap(lambda k: jax.random.uniform(k, (BLOCK,)))(_blocks(key, rows))
    return drawn.reshape(-1)[:rows]
