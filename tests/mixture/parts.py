"""Every interchangeable part of a trajectory, as the registries have them, and what they take."""

from typing import Any, NamedTuple

import jax
import numpy as np
from own_parts import own_parts

from synthjax.mixture.data import Examples, Numbers
from synthjax.mixture.spec import Spec
from synthjax.protocol.spec import fields_of

N, K, D = 64, 3, 5

FIELDS = fields_of(Spec)

with own_parts():
    FAMILIES = {
        name: dict(field.metadata["kinds"])
        for name, field in FIELDS.items()
        if field.metadata["kinds"] and name != "engine"
    }


class Inputs(NamedTuple):
    """All that any part takes."""

    key: Any
    numbers: Numbers
    examples: Examples
    guesses: np.ndarray
    scores: np.ndarray
    valid: np.ndarray


def other_value(name):
    """A value in range of a numeric field that is not its default."""
    low, high = FIELDS[name].metadata["low"], min(FIELDS[name].metadata["high"], 10.0)
    goal = high if FIELDS[name].default < high else low
    return 0.7 * FIELDS[name].default + 0.3 * goal


SIZES = {"n": (N, N - 9), "n_real": (N, N - 9), "k": (K, K - 1)}
DEFAULT, OTHER = (
    Numbers(
        *(
            np.int32(SIZES[name][i]) if name in SIZES else np.float32(value(name))
            for name in Numbers._fields
        )
    )
    for i, value in enumerate((lambda name: FIELDS[name].default, other_value))
)


def inputs(seed, numbers=DEFAULT, rows=N):
    """Of more rows the first are the same, and those beyond N do not count."""

    def rng(i):
        return np.random.default_rng([seed, i])

    z = rng(0).standard_normal((rows, D))
    y = np.where(z[:, 0] + rng(1).standard_normal(rows) >= 0, 1, -1)
    guesses = np.where(rng(2).random(rows) < 0.3, -y, y)
    w = rng(3).standard_normal(D)
    scores = rng(4).integers(0, 2, (rows, K)).T  # with ties
    valid = (rng(5).random((rows, K)).T < 0.8) & (np.arange(rows) < N)
    arrays = (z * np.linspace(1.5, 0.5, D), z, y, w, guesses, scores)
    x, z, y, w, guesses, scores = (a.astype(np.float32) for a in arrays)
    examples = Examples(x, z, y, w, np.int32(1))
    return Inputs(jax.random.key(seed), numbers, examples, guesses, scores, valid)


def differ(found, wanted):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in leaves)
