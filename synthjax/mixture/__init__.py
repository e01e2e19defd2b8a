"""Gaussian-mixture self-training: `run(Spec(...))` returns labelled results."""

from synthjax.mixture.spec import Spec
from synthjax.mixture.sweep import Stopped, run

__all__ = ["Spec", "Stopped", "run"]
