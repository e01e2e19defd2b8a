"""Gaussian-mixture self-training: `run(Spec(...))` returns labelled results."""

from synthjax.mixture.spec import Spec
from synthjax.mixture.sweep import Stopped, estimate, run

__all__ = ["Spec", "Stopped", "estimate", "run"]
