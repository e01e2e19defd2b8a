"""Random numbers that JAX draws slowly or not at all."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from synthjax.protocol.keys import uniform_rows


def chi(
    key: Key[Array, ""], degrees: Float[Array, "n ..."], any_of: Callable = jnp.any
) -> Float[Array, "n ..."]:
    """χ with the given degrees of freedom, whole numbers; 0 where they are 0 or less.

    Marsaglia and Tsang, *A simple method for generating gamma variables* (2000), all entries at
    once and again until each is accepted (a second time for 1 % or less); for one degree, |N|.
    The first rows are the same however many there are. `any_of` tells whether a flag is set
    anywhere in the batch.
    """
    d = jnp.maximum(degrees, 2) / 2 - 1 / 3

    def unfinished(state):
        return any_of((state[1] < 0).any())

    def attempt(state):
        i, found = state
        # One draw, for each is some more loops to compile: normals are made of uniforms here, as
        # JAX makes them.
        drawn = uniform_rows(jax.random.fold_in(key, i), 2 * d.size).reshape(*d.shape, 2)
        least = np.nextafter(np.float32(-1), np.float32(0))
        normal = np.sqrt(2) * lax.erf_inv(jnp.maximum(2 * drawn[..., 0] - 1, least))
        t = normal / jnp.sqrt(9 * d)
        accepted = (t > -1) & (jnp.log(1 - drawn[..., 1]) < 3 * d * _rest(t))
        value = jnp.where(degrees == 1, jnp.abs(normal), jnp.sqrt(2 * d * (1 + t) ** 3))
        accepted |= degrees == 1
        return i + 1, jnp.where((found < 0) & accepted, value, found)

    _, found = lax.while_loop(unfinished, attempt, (0, jnp.where(degrees > 0, -1.0, 0.0)))
    return found


def _rest(t: Float[Array, " n"]) -> Float[Array, " n"]:
    """log(1+t) − t + t²/2 − t³/3, without cancellation near 0."""
    small = jnp.abs(t) < 0.1
    s = jnp.where(small, t, 0)
    series = s**4 * (-1 / 4 + s * (1 / 5 + s * (-1 / 6 + s * (1 / 7 - s / 8))))
    t = jnp.where(small | (t <= -1), 0.5, t)
    return jnp.where(small, series, jnp.log1p(t) - t + t**2 / 2 - t**3 / 3)
