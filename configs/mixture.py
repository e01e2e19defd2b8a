"""Gaussian-mixture self-training.

python -m launch.mixture --config=configs/mixture.py:VARIANT --workdir=runs/VARIANT

Runtimes are those of two CPU cores, compilation included.

- base: one setting, small, the one to override. 6 seconds. Expect accuracy 0.68 before and 0.67
  after five generations: without a verifier nothing is gained.
- quickstart: breakdown/ (accuracy against p for no verifier, an oracle and three noisy ones) and
  angles/ (accuracy over the generator's and the verifier's angle after three generations). 14
  seconds. Expect the curves of breakdown/ to cross 1/2 at p = 1/(1 + psi), and 0.97 at p = 0.02.
- phase_diagram: quickstart's breakdown at the paper's size, 10,250 trajectories whose features
  would take 16 GB. 10 to 13 seconds, in 0.7 GB. Expect the same crossings, and 0.95 at p = 0.02.
- phase_diagram_n: accuracy over both angles at n = 100, 300, 3000 from 100,224 matrix-free
  trajectories, with the line 1/2 of state evolution. A minute.
- million: accuracy over both angles from 10^6 trajectories, for a pod. 87 seconds here. Expect at
  theta_gen = theta_ver = 0.05 after three generations 0.911, from 0.984.
- regimes: ten generations of each regime from 500 real examples, without and with a linear
  verifier. 60 seconds. Expect 0.91 at first, and after ten generations without a verifier
  0.72 (replace), 0.89 (accumulate), 0.84 (subsample), 0.89 (mix); with it 0.84, 0.91, 0.87, 0.89.
- verifier_scaling: accuracy against n up to 100,000, in teacher/ and mixture/ for verifiers from 0
  to π/2, in penalties/ for several l2. Two minutes. Expect in mixture/ at theta_ver = π/12 (0.2618)
  a best n near 3000 with 0.972, and 0.969 at 100,000; in teacher/ a rise to 0.83.
- correlated_errors: accuracy against error_correlation. 6 seconds. Expect at theta_ver = 0.3 a fall
  from 0.93 (-1) through 0.90 (0) to 0.87 (1), from a generator's 0.71.
- best_of_k: accuracy against k by verifier. 57 seconds. Expect 0.70 at k = 1; at k = 8 still 0.70
  (none) and 0.71 (self), but 0.84 (noisy, linear) and 0.97 (oracle).
- independence: where the breakdown theorem's assumption fails, simulation and theory, in
  flip_linear/, linear_linear/ and anisotropic/. 18 seconds. Expect at theta_ver = 1.3 in
  flip_linear/ a crossing of 1/2 at p = 0.80, not at p* = 0.59.
"""

import math

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


def phase_diagram_n() -> Spec:
    """Accuracy over both angles at three n: 100,224 trajectories of three generations."""
    steps = tuple(np.linspace(0.05, 3.09, 24).round(3))
    return Spec(
        engine="matrix_free",
        d=100,
        generations=3,
        trajectories=58,
        verifier="linear",
        learner="ridge",
        sweep={"n": (100, 300, 3000), "theta_gen": steps, "theta_ver": steps},
    )


def million() -> Spec:
    """Accuracy over both angles, a thousand trajectories a point: for a pod."""
    return Spec(
        engine="matrix_free",
        n=1000,
        d=100,
        generations=3,
        trajectories=1000,
        verifier="linear",
        learner="ridge",
        sweep={
            "theta_gen": tuple(np.linspace(0.05, 3.09, 40).round(3)),
            "theta_ver": tuple(np.linspace(0.05, 3.09, 25).round(3)),
        },
    )


def regimes() -> Spec:
    """Ten generations of each regime, with and without a verifier, from real examples on."""
    return Spec(
        n=500,
        d=100,
        initial="real",
        n_real=500,
        theta_ver=0.4,
        generations=10,
        trajectories=40,
        sweep={
            "verifier": ("none", "linear"),
            "regime": ("replace", "accumulate", "subsample", "mix"),
        },
    )


def verifier_scaling() -> dict[str, Spec]:
    """Accuracy against n: for verifiers of several angles, and at several penalties."""
    common = dict(d=100, verifier="linear", theta_gen=1.0, generations=1)
    n = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)
    angles = (0.0, *(round(math.pi / i, 4) for i in (24, 12, 6, 4, 3, 2)))
    return {
        "teacher": Spec(l2=1e-5, trajectories=10, sweep={"n": n, "theta_ver": angles}, **common),
        "mixture": Spec(
            features="mixture",
            signal=2.0,
            l2=1e-5,
            trajectories=20,
            sweep={"n": n, "theta_ver": angles},
            **common,
        ),
        "penalties": Spec(
            features="mixture",
            signal=2.0,
            theta_ver=angles[2],
            trajectories=20,
            sweep={"n": n, "l2": tuple(1 / n for n in n)},
            **common,
        ),
    }


def correlated_errors() -> Spec:
    """Accuracy against error_correlation, three generations."""
    return Spec(
        n=2000,
        theta_gen=0.9,
        verifier="linear",
        learner="ridge",
        generations=3,
        trajectories=20,
        sweep={
            "theta_ver": (0.3, 0.6, 0.9, 1.2),
            "error_correlation": tuple(np.linspace(-1, 1, 21).round(2)),
        },
    )


def best_of_k() -> Spec:
    """Accuracy against k for several verifiers, one and three generations on."""
    return Spec(
        n=2000,
        generator="logistic",
        temperature=0.5,
        theta_gen=0.9,
        selection="best_of_k",
        generations=3,
        trajectories=20,
        sweep={
            "verifier": ("none", "self", "noisy", "linear", "oracle"),
            "k": (1, 2, 4, 8, 16, 32),
        },
    )


def independence() -> dict[str, Spec]:
    """Where the breakdown theorem's assumption fails that verdicts do not depend on x."""
    common = dict(n=4000, d=20, generations=1, trajectories=20, learner="ridge")
    steps = tuple(np.linspace(0.05, 3.09, 39).round(3))
    return {
        "flip_linear": Spec(
            generator="flip",
            verifier="linear",
            sweep={"p": tuple(np.linspace(0.02, 0.98, 33).round(3)), "theta_ver": (0.3, 0.8, 1.3)},
            **common,
        ),
        "linear_linear": Spec(
            verifier="linear", sweep={"theta_gen": steps, "theta_ver": (0.3, 0.8, 1.3)}, **common
        ),
        "anisotropic": Spec(
            covariance="dense",
            theta_gen=0.9,
            l2=0.1,
            theta_ver=0.3,
            sweep={
                "verifier": ("none", "linear", "oracle"),
                "covariance_decay": tuple(np.linspace(0, 2, 9)),
            },
            **common,
        ),
    }


VARIANTS = {
    "base": Spec,
    "quickstart": lambda: {
        "breakdown": breakdown(n=4000, d=50, trajectories=20, steps=33),
        "angles": angles(),
    },
    "phase_diagram": lambda: breakdown(n=4000, d=100, trajectories=50, steps=41),
    "phase_diagram_n": phase_diagram_n,
    "million": million,
    "regimes": regimes,
    "verifier_scaling": verifier_scaling,
    "correlated_errors": correlated_errors,
    "best_of_k": best_of_k,
    "independence": independence,
}


def get_config(variant: str = "base") -> config_dict.ConfigDict:
    """The variant's spec as a config, or a config of several named specs."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; choices: {', '.join(VARIANTS)}")
    made = VARIANTS[variant]()
    if isinstance(made, Spec):
        return to_config(made)
    return config_dict.ConfigDict({name: to_config(spec) for name, spec in made.items()})
