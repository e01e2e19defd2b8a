"""Mean accuracy crosses 1/2 at p* = 1/(1 + ψ/φ), for noisy verifiers over a grid of (φ, ψ).

The crossing's standard error is about 0.001 here (benchmarks/breakdown_point.py, which runs the
whole grid, gives it by bootstrap), so a p* that were off by 0.008 would be found nearly surely,
and a right one is refused by chance once in some 10⁶; the seed is fixed besides.
"""

import numpy as np
import pytest

from benchmarks.breakdown_point import crossing
from synthjax import mixture

pytestmark = pytest.mark.optimized


@pytest.mark.slow
@pytest.mark.parametrize(
    "features, learner",
    [("mixture", "logistic"), pytest.param("teacher", "ridge", marks=pytest.mark.long)],
)
def test_accuracy_crosses_one_half_at_the_breakdown_point(features, learner):
    spec = mixture.Spec(
        n=8000,
        d=10,
        generations=1,
        trajectories=150,
        features=features,
        learner=learner,
        generator="flip",
        verifier="noisy",
        sweep={
            "p": tuple(np.arange(0.3, 0.85, 0.04).round(2)),
            "phi": (0.6, 1.0),
            "psi": (0.3, 1.0),
        },
    )
    accuracy = mixture.run(spec).accuracy.isel(generation=-1)
    for phi in spec.sweep["phi"]:
        for psi in spec.sweep["psi"]:
            one = accuracy.sel(phi=phi, psi=psi).transpose("p", "trajectory").values
            found = crossing(np.array(spec.sweep["p"]), one)
            assert abs(found - 1 / (1 + psi / phi)) < 0.005, (phi, psi, found)
