"""Gaussian-mixture self-training.

python -m launch.mixture --config=configs/mixture.py:VARIANT --workdir=runs/VARIANT

Runtimes are those of two CPU cores, compilation included.

- base: one setting, small, the one to override. 5 seconds. Expect accuracy 0.68 before and 0.67
  after five generations: without a verifier nothing is gained.
- quickstart: breakdown/ (accuracy against p for no verifier, an oracle and three noisy ones) and
  angles/ (accuracy over the generator's and the verifier's angle after three generations). 10
  seconds. Expect the curves of breakdown/ to cross 1/2 at p = 1/(1 + psi), and 0.97 at p = 0.02.
- phase_diagram: quickstart's breakdown at the paper's size, 10,250 trajectories whose features
  would take 16 GB. 10 seconds, in 0.7 GB. Expect the same crossings, and 0.95 at p = 0.02.
"""

import numpy as np
from ml_collections import config_dict

from synthjax.mixture import Spec
from synthjax.protocol.spec import to_config


def breakdown(**size) -> Spec:
    """Accuracy against p: psi = 1 is no verifier, psi = 0 an oracle."""
    steps = size.pop("steps")
    return Spec(
        features="mixture",
        signal=1.0,
        generator="flip",
        verifier="noisy",
        phi=1.0,
        learner="logistic",
        l2=1e-3,
        generations=1,
        sweep={
            "p": tuple(np.linspace(0.02, 0.98, steps).round(3)),
            "psi": (0.0, 0.25, 0.5, 0.75, 1.0),
        },
        **size,
    )


def angles() -> Spec:
    """Accuracy over (theta_gen, theta_ver) after three generations."""
    steps = tuple(np.linspace(0.05, 3.09, 39).round(3))
    return Spec(
        n=1000,
        d=20,
        generations=3,
        trajectories=8,
        verifier="linear",
        learner="ridge",
        sweep={"theta_gen": steps, "theta_ver": steps},
    )


VARIANTS = {
    "base": Spec,
    "quickstart": lambda: {
        "breakdown": breakdown(n=4000, d=50, trajectories=20, steps=33),
        "angles": angles(),
    },
    "phase_diagram": lambda: breakdown(n=4000, d=100, trajectories=50, steps=41),
}


def get_config(variant: str = "base") -> config_dict.ConfigDict:
    """The variant's spec as a config, or a config of several named specs."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; choices: {', '.join(VARIANTS)}")
    made = VARIANTS[variant]()
    if isinstance(made, Spec):
        return to_config(made)
    return config_dict.ConfigDict({name: to_config(spec) for name, spec in made.items()})
