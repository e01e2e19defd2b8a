"""Where does mean accuracy cross 1/2? For noisy verifiers, at p* = 1/(1 + ψ/φ).

    python -m benchmarks.breakdown_point

A flip generator, a grid of (φ, ψ), logistic and ridge, teacher and mixture; the crossing is found
by linear interpolation over p and comes with a bootstrap standard error over trajectories.
"""

import numpy as np
from absl import app

from benchmarks.common import Results
from synthjax import mixture
from synthjax.mixture.theory import breakdown_point

PHI = (0.5, 0.75, 1.0)
PSI = (0.1, 0.25, 0.5, 1.0)
P = tuple(np.arange(0.3, 0.975, 0.03).round(2))


def crossing(p, accuracy):
    """The p at which mean accuracy falls through 1/2; accuracy [p, trajectory]."""
    mean = accuracy.mean(1)
    i = np.flatnonzero((mean[:-1] >= 0.5) & (mean[1:] < 0.5))[0]
    return p[i] + (p[i + 1] - p[i]) * (mean[i] - 0.5) / (mean[i] - mean[i + 1])


def main(argv: list[str]) -> None:
    results = Results("breakdown_point")
    spec = mixture.Spec(
        n=8000,
        d=10,
        generations=1,
        trajectories=150,
        generator="flip",
        verifier="noisy",
        sweep={
            "features": ("teacher", "mixture"),
            "learner": ("logistic", "ridge"),
            "p": P,
            "phi": PHI,
            "psi": PSI,
        },
    )
    found = mixture.run(spec).accuracy.isel(generation=-1)
    rng = np.random.default_rng(0)
    worst = 0.0
    for at in np.ndindex(*(found.sizes[name] for name in ("features", "learner", "phi", "psi"))):
        one = found.isel(dict(zip(("features", "learner", "phi", "psi"), at, strict=True)))
        accuracy = one.transpose("p", "trajectory").values
        picks = rng.integers(0, accuracy.shape[1], (200, accuracy.shape[1]))
        p_star = float(breakdown_point(one.phi.item(), one.psi.item()))
        where = crossing(one.p.values, accuracy)
        worst = max(worst, abs(where - p_star))
        results.add(
            features=one.features.item(),
            learner=one.learner.item(),
            phi=one.phi.item(),
            psi=one.psi.item(),
            p_star=round(p_star, 5),
            crossing=round(float(where), 5),
            standard_error=round(
                float(np.std([crossing(one.p.values, accuracy[:, pick]) for pick in picks])), 5
            ),
        )
    print(f"largest distance from p*: {worst:.4f}")


if __name__ == "__main__":
    app.run(main)
