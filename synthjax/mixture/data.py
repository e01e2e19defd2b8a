"""Features, true labels, and the generators that label them.

The setting is that of Feng, Dohmatob, Yang, Charton, Kempe, arXiv 2406.07515 (here "the paper").
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from synthjax.protocol.spec import Kind


class Numbers(NamedTuple):
    """The numeric fields of a spec, traced, so that changing one costs no compilation."""

    signal: Float[Array, ""]
    theta_gen: Float[Array, ""]
    p: Float[Array, ""]
    phi: Float[Array, ""]
    psi: Float[Array, ""]
    theta_ver: Float[Array, ""]
    error_correlation: Float[Array, ""]
    l2: Float[Array, ""]


class Sample(NamedTuple):
    """A weighted training set of fixed shape; weight 0 marks a guess that was not kept."""

    x: Float[Array, "n d"]
    labels: Float[Array, " n"]
    weights: Float[Array, " n"]


def side(margin: Float[Array, "..."]) -> Float[Array, "..."]:
    """The label ±1 of a margin; 0 counts as +1."""
    return jnp.where(margin >= 0, 1.0, -1.0)


def teacher(
    key: Key[Array, ""], numbers: Numbers, n: int, d: int
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """x ~ N(0, I), y = sign(w*·x), w* = e₀."""
    x = jax.random.normal(key, (n, d))
    return x, side(x[:, 0])


def mixture(
    key: Key[Array, ""], numbers: Numbers, n: int, d: int
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """y = ±1 evenly, x | y ~ N(y μ, I), μ = signal · e₀."""
    noise_key, label_key = jax.random.split(key)
    y = jnp.where(jax.random.bernoulli(label_key, 0.5, (n,)), 1.0, -1.0)
    x = jax.random.normal(noise_key, (n, d))
    return x.at[:, 0].add(y * numbers.signal), y


def linear(
    key: Key[Array, ""],
    numbers: Numbers,
    generation: Float[Array, ""],
    w: Float[Array, " d"],
    x: Float[Array, "n d"],
    y: Float[Array, " n"],
) -> Float[Array, " n"]:
    """y′ = sign(w·x), w the last generation's classifier."""
    return side(x @ w)


def flip(
    key: Key[Array, ""],
    numbers: Numbers,
    generation: Float[Array, ""],
    w: Float[Array, " d"],
    x: Float[Array, "n d"],
    y: Float[Array, " n"],
) -> Float[Array, " n"]:
    """y′ = −y with probability p in generation 1, when there is no classifier yet; then linear."""
    flipped = jnp.where(jax.random.uniform(key, y.shape) < numbers.p, -y, y)
    return jnp.where(generation == 1, flipped, side(x @ w))


FEATURES = {
    "teacher": Kind(teacher, (), "x ~ N(0, I), y = sign(w*·x)"),
    "mixture": Kind(mixture, ("signal",), "x | y ~ N(y μ, I)"),
}
GENERATORS = {
    "linear": Kind(linear, ("initial",), "y′ = sign(w·x), w the last classifier"),
    "flip": Kind(flip, ("p",), "y flipped with probability p in generation 1, then linear"),
}
