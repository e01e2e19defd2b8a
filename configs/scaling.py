"""Collapse scaling laws: error against n, generations and the verifier's angle, by three engines.

python -m launch.scaling --config=configs/scaling.py:VARIANT --workdir=runs/VARIANT

Each variant holds a spec for each engine: direct at sizes that it can do, matrix_free at the same
d/n and beyond, state_evolution over the whole range. Runtimes are those of two CPU cores.

- scaling_n: error against n at d = 100, for verifiers at 0 and π/12, fitted by E + A n^-alpha.
  55 s; E = 0.159 and 0.168, alpha = 1.10 and 1.11 (matrix_free and state_evolution alike).
- scaling_generations: error against the generation T without a verifier, whose accuracy collapses
  to 1/2, and with one, which stops that; E + A r^T or E + A T^-alpha. 20 s; E = 0.499, r = 0.80
  without, E = 0.285 (state_evolution 0.281), r = 0.43 with it.
- scaling_verifier: error over n, T and theta_ver, fitted by a surface, which is off by some 2.5 %
  (the figure says so). 47 s; alpha = 0.56, beta = 1.0, r = 0.47.
"""

import math

import numpy as np
from ml_collections import config_dict

from synthjax.mixture import Spec
from synthjax.protocol.spec import to_config

ENGINES = ("direct", "matrix_free", "state_evolution")
COMMON = dict(verifier="linear", learner="ridge", theta_gen=1.0, d=100)


def decades(first: int, last: float, each: int = 4) -> tuple[int, ...]:
    """Numbers from 10^first to 10^last, `each` of them a decade."""
    steps = round((last - first) * each)
    return tuple(round(10 ** (first + i / each)) for i in range(steps + 1))


def scaling_n() -> dict[str, Spec]:
    """Error against n, one generation."""
    sizes = {"direct": (2.5, 4), "matrix_free": (2.5, 5), "state_evolution": (2.5, 7, 2)}
    trajectories = {"direct": 40, "matrix_free": 100, "state_evolution": 1}
    return {
        engine: Spec(
            engine=engine,
            generations=1,
            trajectories=trajectories[engine],
            sweep={"n": decades(*sizes[engine]), "theta_ver": (0.0, round(math.pi / 12, 4))},
            **COMMON,
        )
        for engine in ENGINES
    }


def scaling_generations() -> dict[str, Spec]:
    """Error against the generation, without a verifier and with one."""
    return {
        engine: Spec(
            engine=engine,
            n=200,
            generations=16,
            trajectories={"direct": 200, "matrix_free": 400, "state_evolution": 1}[engine],
            theta_ver=0.4,
            sweep={"verifier": ("none", "linear")},
            **{name: value for name, value in COMMON.items() if name != "verifier"},
        )
        for engine in ENGINES
    }


def scaling_verifier() -> dict[str, Spec]:
    """Error over n, generations and the verifier's angle."""
    sizes = {"direct": (2.5, 3.5), "matrix_free": (2.5, 5, 2), "state_evolution": (2.5, 6, 2)}
    return {
        engine: Spec(
            engine=engine,
            generations=6,
            trajectories={"direct": 20, "matrix_free": 40, "state_evolution": 1}[engine],
            sweep={
                "n": decades(*sizes[engine]),
                "theta_ver": tuple(np.linspace(0.1, 0.8, 5).round(3).tolist()),
            },
            **COMMON,
        )
        for engine in ENGINES
    }


VARIANTS = {
    "scaling_n": scaling_n,
    "scaling_generations": scaling_generations,
    "scaling_verifier": scaling_verifier,
}


def get_config(variant: str = "scaling_n") -> config_dict.ConfigDict:
    """A config of several named specs, one for each engine."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; choices: {', '.join(VARIANTS)}")
    specs = VARIANTS[variant]()
    return config_dict.ConfigDict({name: to_config(spec) for name, spec in specs.items()})
