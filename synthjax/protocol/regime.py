"""Regimes: what a generation's training set is made of."""

from typing import TypeVar

from synthjax.protocol.spec import Kind

Sample = TypeVar("Sample")


def replace(kept: Sample) -> Sample:
    """Train on what was kept of this generation's guesses alone; real and past data are gone."""
    return kept


REGIMES = {"replace": Kind(replace, (), "the kept guesses of this generation, nothing else")}
