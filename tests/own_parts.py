"""Parts of a user's own, and what it takes to have them in the registries for a while."""

import dataclasses
from contextlib import ExitStack, contextmanager
from unittest import mock

import jax.numpy as jnp

from synthjax import mixture
from synthjax.mixture.data import side
from synthjax.mixture.learn import Fit
from synthjax.mixture.spec import Spec
from synthjax.protocol.keys import normal_rows
from synthjax.protocol.spec import fields_of


def probit(key, numbers, examples):
    """P(y′ = 1 | x) = Φ(w·x/temperature)."""
    noise = normal_rows(key, len(examples.y), 1)[:, 0]
    return side(examples.x @ examples.w / numbers.temperature + noise)


probit.reads = ("initial", "temperature")


@dataclasses.dataclass(frozen=True)
class Vote:
    """Keep where most of an ensemble of classifiers agree: each at theta_ver, aside of its own."""

    members: int = 3
    reads = ("theta_ver",)

    def __call__(self, key, numbers, examples, guesses):
        aside = jnp.sin(numbers.theta_ver) * examples.z[:, 1 : 1 + self.members]
        votes = side(jnp.cos(numbers.theta_ver) * examples.z[:, :1] + aside)
        agree = (votes == guesses[:, None]).sum(1)
        return (2 * agree > self.members).astype(guesses.dtype)


def centroid(key, numbers, sample):
    """w = Σ q y′ x / m, which no penalty is needed for."""
    weights = sample.weights / jnp.maximum(sample.weights.sum(), 1)
    w = (weights * sample.labels) @ sample.x
    return Fit(w, jnp.isfinite(w).all())


OWN = [
    ("generator", probit),
    ("verifier", Vote(members=3)),
    ("learner", centroid),
]


@contextmanager
def own_parts():
    """OWN in the registries, and afterwards no more: other tests read them too."""
    fields = fields_of(Spec)
    with ExitStack() as stack:
        for family, part in OWN:
            stack.enter_context(mock.patch.dict(fields[family].metadata["kinds"]))
            mixture.register(family, part)
        yield
