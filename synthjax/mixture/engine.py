"""Engines: how a trajectory is simulated, and which of them can take which kinds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from synthjax.mixture import evolution, matrix_free
from synthjax.mixture.trajectory import trajectory
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.spec import Kind

ENGINES = {
    "auto": Kind(None, (), "matrix_free where it applies and is faster, else direct"),
    "direct": Kind(trajectory, (), "draw every feature; any setting"),
    "matrix_free": Kind(
        matrix_free.trajectory, (), "the same law from a few numbers an example; Σ = I"
    ),
    "state_evolution": Kind(
        evolution.trajectory,
        (),
        "no randomness: the limit of large n and d at their ratio; all trajectories are one",
    ),
}
# A column that a learner may ask for costs about as much as three that are simply drawn.
WORTH = 3
_OWN = "what a part of one's own reads of an example is not known"
WHY = {
    "covariance": "features that are not isotropic have no direction like another",
    "regime": "what was learnt from the past depends on all of it, not on a few directions",
    **dict.fromkeys(("generator", "verifier", "learner"), _OWN),
}


def refused(engine: str, point: Mapping[str, Any]) -> tuple[str, str] | None:
    """The field that an engine cannot take as it is at a grid point, and why; None where it can.

    `point` has all kinds, `l2` and `keep_classifiers`.
    """
    if engine not in ("matrix_free", "state_evolution"):
        return None
    if point["keep_classifiers"]:
        return "keep_classifiers", "a classifier's d coordinates are never made"
    if engine == "matrix_free" and np.float32(point["l2"]) == 0:
        return "l2", "without a penalty nothing chooses among the minimisers; take a small l2 > 0"
    known = evolution.KNOWN if engine == "state_evolution" else matrix_free.KNOWN
    return next(
        ((family, WHY[family]) for family, names in known.items() if point[family] not in names),
        None,
    )


def resolved(engine: str, point: Mapping[str, Any]) -> str:
    """The engine that auto stands for at a grid point, which has `d` as well; any other is itself.

    It depends on nothing that going on may change. Where the past is kept that is direct: products
    add up over the generations.
    """
    if engine != "auto":
        return engine
    if refused("matrix_free", point) or REGIMES[point["regime"]].call.past:
        return "direct"
    room = matrix_free.room(point, point["l2"], point["d"], 1)
    return "matrix_free" if WORTH * room < point["d"] else "direct"
