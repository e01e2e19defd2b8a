"""Verifiers: from guessed labels to a score of each.

A score is a verdict, 1 keep or 0 drop; or, from a verifier that reads `keep`, any number, and of
all guesses the top fraction `keep` is kept.
"""

from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from synthjax.mixture.data import Examples, Numbers, by_class, side
from synthjax.mixture.theory import place
from synthjax.protocol.keys import uniform_rows
from synthjax.protocol.spec import Kind

Guesses = Float[Array, " n"]


class Verifier(Protocol):
    """Scores the guesses of a generation.

    A pure JAX function of one compilation. Row i of the result may depend on row i of `examples`
    and `guesses` and on the key, of which random numbers are drawn by rows (`uniform_rows`,
    `normal_rows`): then results do not depend on how long the arrays are. Only an oracle looks at
    `examples.y`.
    """

    def __call__(
        self, key: Key[Array, ""], numbers: Numbers, examples: Examples, guesses: Guesses
    ) -> Float[Array, " n"]:
        """1 keep or 0 drop; a number that ranks the guesses where `reads` names "keep"."""


def none(key: Key[Array, ""], numbers: Numbers, examples: Examples, guesses: Guesses) -> Guesses:
    """Keep everything: φ = ψ = 1."""
    return jnp.ones_like(guesses)


def oracle(key: Key[Array, ""], numbers: Numbers, examples: Examples, guesses: Guesses) -> Guesses:
    """Keep what is right: φ = 1, ψ = 0."""
    return (guesses == examples.y).astype(guesses.dtype)


def noisy(key: Key[Array, ""], numbers: Numbers, examples: Examples, guesses: Guesses) -> Guesses:
    """Keep a right guess with probability φ and a wrong one with ψ, independently of x."""
    return _by_chance(key, examples, guesses, numbers.phi, numbers.psi)


def noisy_by_class(
    key: Key[Array, ""], numbers: Numbers, examples: Examples, guesses: Guesses
) -> Guesses:
    """As noisy, with φ and ψ of the true class: phi_plus and psi_plus where y = 1."""
    phi = by_class(examples.y, numbers.phi_plus, numbers.phi_minus)
    psi = by_class(examples.y, numbers.psi_plus, numbers.psi_minus)
    return _by_chance(key, examples, guesses, phi, psi)


def _by_chance(key, examples: Examples, guesses: Guesses, phi, psi) -> Guesses:
    chance = jnp.where(guesses == examples.y, phi, psi)
    return (uniform_rows(key, len(guesses)) < chance).astype(guesses.dtype)


def linear(key: Key[Array, ""], numbers: Numbers, examples: Examples, guesses: Guesses) -> Guesses:
    """Keep where the verifier's own classifier agrees: y′ = sign(v·x)."""
    return (guesses == side(_verifier_margin(numbers, examples))).astype(guesses.dtype)


def margin(key: Key[Array, ""], numbers: Numbers, examples: Examples, guesses: Guesses) -> Guesses:
    """y′ v·x, by which the verifier's own classifier would select the best."""
    return guesses * _verifier_margin(numbers, examples)


def self_margin(
    key: Key[Array, ""], numbers: Numbers, examples: Examples, guesses: Guesses
) -> Guesses:
    """y′ w·x: the generator's own confidence in its guess."""
    return guesses * (examples.x @ examples.w)


def _verifier_margin(numbers: Numbers, examples: Examples) -> Float[Array, " n"]:
    v = place(numbers.theta_gen, numbers.theta_ver, numbers.error_correlation)[2]
    return examples.z[:, :3] @ v


_CLASSIFIER = ("theta_ver", "error_correlation")
VERIFIERS = {
    "none": Kind(none, (), "keep everything"),
    "oracle": Kind(oracle, (), "keep what is right"),
    "noisy": Kind(noisy, ("phi", "psi"), "keep right guesses with φ, wrong ones with ψ"),
    "noisy_by_class": Kind(
        noisy_by_class,
        ("phi_plus", "phi_minus", "psi_plus", "psi_minus"),
        "noisy with rates for each true class",
    ),
    "linear": Kind(linear, _CLASSIFIER, "keep where a classifier at angle theta_ver agrees"),
    "margin": Kind(
        margin, (*_CLASSIFIER, "keep"), "keep the fraction that this classifier is surest of"
    ),
    "self": Kind(self_margin, ("keep",), "keep the fraction that the generator is surest of"),
}
