"""Eigenvalues of symmetric matrices by a transformer that learns from its own guesses.

`run(Spec(...))` returns labelled results. `register`, or `Spec` itself, takes a verifier of your
own, a function that satisfies `Verifier`: from `Numbers` and what was `Guessed` to scores.
"""

from synthjax.eigen.spec import Spec, register
from synthjax.eigen.sweep import estimate, load, run
from synthjax.eigen.verify import Guessed, Numbers, Verifier

__all__ = ["Guessed", "Numbers", "Spec", "Verifier", "estimate", "load", "register", "run"]
