"""Verifiers: from guessed labels to a verdict on each, 1 keep or 0 drop."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from synthjax.mixture.data import Numbers, side
from synthjax.mixture.theory import place
from synthjax.protocol.spec import Kind


def none(
    key: Key[Array, ""],
    numbers: Numbers,
    x: Float[Array, "n d"],
    y: Float[Array, " n"],
    guesses: Float[Array, " n"],
) -> Float[Array, " n"]:
    """Keep everything: φ = ψ = 1."""
    return jnp.ones_like(guesses)


def oracle(
    key: Key[Array, ""],
    numbers: Numbers,
    x: Float[Array, "n d"],
    y: Float[Array, " n"],
    guesses: Float[Array, " n"],
) -> Float[Array, " n"]:
    """Keep what is right: φ = 1, ψ = 0."""
    return (guesses == y).astype(guesses.dtype)


def noisy(
    key: Key[Array, ""],
    numbers: Numbers,
    x: Float[Array, "n d"],
    y: Float[Array, " n"],
    guesses: Float[Array, " n"],
) -> Float[Array, " n"]:
    """Keep a right guess with probability φ and a wrong one with ψ, independently of x."""
    chance = jnp.where(guesses == y, numbers.phi, numbers.psi)
    return (jax.random.uniform(key, guesses.shape) < chance).astype(guesses.dtype)


def linear(
    key: Key[Array, ""],
    numbers: Numbers,
    x: Float[Array, "n d"],
    y: Float[Array, " n"],
    guesses: Float[Array, " n"],
) -> Float[Array, " n"]:
    """Keep where the verifier's own classifier agrees: y′ = sign(v·x)."""
    v = place(numbers.theta_gen, numbers.theta_ver, numbers.error_correlation)[2]
    return (guesses == side(x[:, :3] @ v)).astype(guesses.dtype)


VERIFIERS = {
    "none": Kind(none, (), "keep everything"),
    "oracle": Kind(oracle, (), "keep what is right"),
    "noisy": Kind(noisy, ("phi", "psi"), "keep right guesses with φ, wrong ones with ψ"),
    "linear": Kind(
        linear,
        ("theta_ver", "error_correlation"),
        "keep where a classifier at angle theta_ver agrees",
    ),
}
