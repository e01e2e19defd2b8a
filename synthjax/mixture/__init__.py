"""Gaussian-mixture self-training: `run(Spec(...))` returns labelled results.

`register`, or `Spec` itself, takes a generator, verifier or learner of your own: a function that
satisfies `Generator`, `Verifier` or `Learner`.
"""

from synthjax.io.stop import Stopped
from synthjax.mixture.data import Examples, Generator, Numbers, Sample
from synthjax.mixture.learn import Fit, Learner
from synthjax.mixture.spec import Spec, register
from synthjax.mixture.sweep import estimate, run
from synthjax.mixture.verify import Verifier

__all__ = [
    "Examples",
    "Fit",
    "Generator",
    "Learner",
    "Numbers",
    "Sample",
    "Spec",
    "Stopped",
    "Verifier",
    "estimate",
    "register",
    "run",
]
