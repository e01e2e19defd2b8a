"""State evolution at given kinds and numbers, compiled once for each combination of kinds."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from sampled import KINDS, VALUES

from synthjax.mixture import evolution, planar
from synthjax.mixture.data import Numbers
from synthjax.mixture.evolution import Evolution

BASE = KINDS | {"verifier": "linear"}


def numbers(dtype=float, **changes):
    return Numbers(
        **{
            name: jnp.asarray(value, int if name == "k" else dtype)
            for name, value in (VALUES | changes).items()
        }
    )


@cache
def jitted(generations, **kinds):
    return jax.jit(partial(evolution.evolution, generations=generations, **kinds))


def evolved(generations=2, d=100, **changes) -> Evolution:
    kinds = {name: changes.pop(name, value) for name, value in BASE.items()}
    return jitted(generations, **kinds)(d=jnp.float32(d), **numbers(**changes)._asdict())


def overlap(found):
    w = np.asarray(found.w)
    return w[:, 0] / np.linalg.norm(w, axis=1)


def measure(kinds, numbers, w, v):
    """A compiled `planar.kept`; by itself every operation would be compiled alone."""
    return jax.jit(lambda numbers, w, v: planar.kept(kinds, numbers, False, w, v))(
        numbers, jnp.asarray(w, float), jnp.asarray(v, float)
    )
