"""Features, true labels, and the generators that label them.

The setting is that of Feng, Dohmatob, Yang, Charton, Kempe, arXiv 2406.07515 (here "the paper").
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from synthjax.protocol.keys import normal_rows, uniform_rows
from synthjax.protocol.spec import Kind


class Numbers(NamedTuple):
    """The numeric fields of a spec, traced, so that changing one costs no compilation."""

    signal: Float[Array, ""]
    covariance_decay: Float[Array, ""]
    n: Int[Array, ""]
    n_real: Int[Array, ""]
    k: Int[Array, ""]
    theta_gen: Float[Array, ""]
    p: Float[Array, ""]
    p_plus: Float[Array, ""]
    p_minus: Float[Array, ""]
    temperature: Float[Array, ""]
    phi: Float[Array, ""]
    psi: Float[Array, ""]
    phi_plus: Float[Array, ""]
    phi_minus: Float[Array, ""]
    psi_plus: Float[Array, ""]
    psi_minus: Float[Array, ""]
    theta_ver: Float[Array, ""]
    error_correlation: Float[Array, ""]
    keep: Float[Array, ""]
    real_fraction: Float[Array, ""]
    l2: Float[Array, ""]


class Examples(NamedTuple):
    """The examples of a generation, in an array that may be longer than n.

    Fields: `x` features; `z` = Σ^(−1/2) x the same whitened, so that w* is e₀; `y` true labels ±1;
    `w` the classifier w_{t−1} that acts on x (0 in generation 1 where there is none); `generation`
    the number t ≥ 1.
    """

    x: Float[Array, "n d"]
    z: Float[Array, "n d"]
    y: Float[Array, " n"]
    w: Float[Array, " d"]
    generation: Int[Array, ""]


class Sample(NamedTuple):
    """A weighted training set of fixed shape; weight 0 marks a guess that was not kept."""

    x: Float[Array, "n d"]
    labels: Float[Array, " n"]
    weights: Float[Array, " n"]


class Generator(Protocol):
    """Labels the examples of a generation.

    A pure JAX function of one compilation. Row i of the result may depend on row i of `examples`
    and on the key, of which random numbers are drawn by rows (`uniform_rows`, `normal_rows`): then
    results do not depend on how long the arrays are. A generator whose `reads` names "initial" is
    given w₀ in generation 1; another starts without a classifier, and w is 0 there.
    """

    def __call__(
        self, key: Key[Array, ""], numbers: Numbers, examples: Examples
    ) -> Float[Array, " n"]:
        """The guessed labels y′, each −1 or 1."""


def side(margin: Float[Array, "..."]) -> Float[Array, "..."]:
    """The label ±1 of a margin; 0 counts as +1."""
    return jnp.where(margin >= 0, 1.0, -1.0)


def by_class(
    y: Float[Array, " n"], plus: Float[Array, ""], minus: Float[Array, ""]
) -> Float[Array, " n"]:
    """For each example the number of its class."""
    return jnp.where(y > 0, plus, minus)


def teacher(
    key: Key[Array, ""], numbers: Numbers, n: int, d: int
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """z ~ N(0, I), y = sign(w*·x) = sign(z₀); whitened features and true labels."""
    z = normal_rows(key, n, d)
    return z, side(z[:, 0])


def mixture(
    key: Key[Array, ""], numbers: Numbers, n: int, d: int
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """y = ±1 evenly, x | y ~ N(y μ, Σ), Σ^(−1/2) μ = signal · e₀; whitened, and true labels."""
    noise_key, label_key = jax.random.split(key)
    y = side(uniform_rows(label_key, n) - 0.5)
    z = normal_rows(noise_key, n, d)
    return z.at[:, 0].add(y * numbers.signal), y


def linear(key: Key[Array, ""], numbers: Numbers, examples: Examples) -> Float[Array, " n"]:
    """y′ = sign(w·x), w the last generation's classifier."""
    return side(examples.x @ examples.w)


def logistic(key: Key[Array, ""], numbers: Numbers, examples: Examples) -> Float[Array, " n"]:
    """P(y′ = 1 | x) = σ(w·x/temperature), w the last generation's classifier with its norm."""
    chance = jax.nn.sigmoid(examples.x @ examples.w / numbers.temperature)
    return side(chance - uniform_rows(key, len(examples.y)))


def flip(key: Key[Array, ""], numbers: Numbers, examples: Examples) -> Float[Array, " n"]:
    """y′ = −y with probability p in generation 1, when there is no classifier yet; then linear."""
    return _flipped(key, examples, numbers.p)


def flip_by_class(key: Key[Array, ""], numbers: Numbers, examples: Examples) -> Float[Array, " n"]:
    """As flip, with probability p_plus where y = 1 and p_minus where y = −1."""
    return _flipped(key, examples, by_class(examples.y, numbers.p_plus, numbers.p_minus))


def _flipped(
    key: Key[Array, ""], examples: Examples, chance: Float[Array, "..."]
) -> Float[Array, " n"]:
    y = examples.y
    flipped = jnp.where(uniform_rows(key, len(y)) < chance, -y, y)
    return jnp.where(examples.generation == 1, flipped, side(examples.x @ examples.w))


FEATURES = {
    "teacher": Kind(teacher, (), "x ~ N(0, Σ), y = sign(w*·x)"),
    "mixture": Kind(mixture, ("signal",), "x | y ~ N(y μ, Σ)"),
}
GENERATORS = {
    "linear": Kind(linear, ("initial",), "y′ = sign(w·x), w the last classifier"),
    "logistic": Kind(logistic, ("initial", "temperature"), "y′ = 1 with chance σ(w·x/temperature)"),
    "flip": Kind(flip, ("p",), "y flipped with probability p in generation 1, then linear"),
    "flip_by_class": Kind(
        flip_by_class, ("p_plus", "p_minus"), "flip with a probability for each class"
    ),
}
