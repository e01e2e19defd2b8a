"""Eigenvalues of symmetric matrices by a transformer that learns from its own guesses.

`run(Spec(...))` returns labelled results.
"""

from synthjax.eigen.spec import Spec
from synthjax.eigen.sweep import estimate, load, run

__all__ = ["Spec", "estimate", "load", "run"]
