"""Regimes: what a generation's training set is made of.

A regime is a choice of sources; how they are put together is each task's own business.
"""

from typing import NamedTuple

from synthjax.protocol.spec import Kind


class Regime(NamedTuple):
    """The sources of a training set, besides the guesses kept in this generation.

    Fields: `past`: what generation 0 was trained on, where that was real examples, and all that was
    kept in earlier generations; `subsample`: of all that, n at random, without replacement;
    `real`: a fraction of the generation's n examples is fresh, truly labelled and not verified,
    and only the others are synthetic.
    """

    past: bool = False
    subsample: bool = False
    real: bool = False


REGIMES = {
    "replace": Kind(Regime(), (), "the kept guesses of this generation, nothing else"),
    "accumulate": Kind(
        Regime(past=True), (), "w₀'s real examples, if there were any, and all kept so far"
    ),
    "subsample": Kind(Regime(past=True, subsample=True), (), "of what accumulate has, n at random"),
    "mix": Kind(
        Regime(real=True),
        ("real_fraction",),
        "of n examples real_fraction is fresh and truly labelled, the rest as in replace",
    ),
}
