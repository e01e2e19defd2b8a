"""What a Gaussian-mixture self-training run is: every field, its default, unit and range."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from synthjax.mixture.data import FEATURES, GENERATORS
from synthjax.mixture.learn import LEARNERS
from synthjax.mixture.verify import VERIFIERS
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.select import SELECTIONS
from synthjax.protocol.spec import (
    Kind,
    SpecError,
    check_reads,
    check_values,
    combinations,
    config_field,
    fields_of,
)

INITIALS = {
    "angle": Kind(None, ("theta_gen",), "w₀ placed at theta_gen from w*"),
    "real": Kind(None, ("n_real",), "w₀ trained on n_real truly labelled examples"),
}
ENGINES = {
    "auto": Kind(None, (), "the fastest engine that applies"),
    "direct": Kind(None, (), "draw every feature; any setting"),
}


PI = float(np.float32(np.pi))  # a little more than π, so that float32's own is in range


@dataclasses.dataclass(frozen=True)
class Spec:
    """One Gaussian-mixture sweep, as in arXiv 2406.07515. Angles are in radians.

    The order of the fields is the order of the axes in results. Raises SpecError, naming
    `config.<field>`, on construction: a spec that exists is one that runs.
    """

    features: str = config_field("teacher", "law of x and of its true label y", kinds=FEATURES)
    signal: float = config_field(
        1.0, "‖μ‖, distance of a mixture component from 0", low=0, high=10, low_open=True
    )
    initial: str = config_field("angle", "where w₀ comes from", kinds=INITIALS)
    generator: str = config_field("linear", "who labels the synthetic examples", kinds=GENERATORS)
    verifier: str = config_field("none", "who decides what to keep", kinds=VERIFIERS)
    selection: str = config_field("prune", "how verdicts become a selection", kinds=SELECTIONS)
    regime: str = config_field("replace", "what a training set is made of", kinds=REGIMES)
    learner: str = config_field("logistic", "what trains on the selection", kinds=LEARNERS)
    engine: str = config_field("auto", "how it is simulated", kinds=ENGINES, axis=False)
    n: int = config_field(1000, "synthetic examples of a generation", low=1, high=2**30)
    d: int = config_field(50, "number of features", low=3, high=2**20)
    n_real: int = config_field(1000, "real examples that train w₀", low=1, high=2**30)
    generations: int = config_field(
        5, "T, how often a model is trained on synthetic data", low=1, high=10**6, axis=False
    )
    trajectories: int = config_field(
        20, "independent repeats of every grid point", low=1, high=2**31 - 1, axis=False
    )
    seed: int = config_field(0, "base of every random number", low=0, high=2**32 - 1)
    theta_gen: float = config_field(
        1.0, "angle of the placed w₀ from w*", unit="rad", low=0, high=PI
    )
    p: float = config_field(0.3, "chance that the flip generator mislabels", low=0, high=1)
    phi: float = config_field(1.0, "φ, chance that a right guess is kept", low=0, high=1)
    psi: float = config_field(0.5, "ψ, chance that a wrong guess is kept", low=0, high=1)
    theta_ver: float = config_field(
        0.5, "angle of the linear verifier from w*", unit="rad", low=0, high=PI
    )
    error_correlation: float = config_field(
        0.0, "ρ, how far the verifier shares the generator's mistakes", low=-1, high=1
    )
    l2: float = config_field(0.01, "λ of the learner's (λ/2)‖w‖²", low=0, high=1e6)
    memory_gb: float = config_field(
        2.0,
        "memory for the features and what is computed from them at one time, all devices together",
        unit="GiB",
        low=0,
        low_open=True,
        axis=False,
    )
    keep_classifiers: bool = config_field(
        False, "keep every w_t, not only its overlap and norm", axis=False
    )
    sweep: Mapping[str, tuple[Any, ...]] = config_field(
        {}, "values of a field, which becomes an axis of the results"
    )

    def __post_init__(self):
        """Validate: values, axes, fields that nothing reads, combinations that cannot run."""
        check_values(self)
        check_reads(self, reads)
        _check_combinations(self)

    def check_explicit(self, names: Iterable[str]) -> None:
        """Refuse names that the user set, even to their default, and that nothing reads."""
        check_reads(self, reads, frozenset(names))


def reads(kinds: Mapping[str, str]) -> set[str]:
    """The fields that one combination of kinds (a field's name -> the kind chosen) reads."""
    tables = {name: field.metadata["kinds"] for name, field in fields_of(Spec).items()}
    parts = [kind for table in tables.values() for kind in (table or {}).values()]
    read = set(tables) - {name for kind in parts for name in kind.reads}
    # A kind may read another kind's field (linear reads initial), and that one reads more.
    for _ in range(2):
        for family in read & set(kinds):
            read |= set(tables[family][kinds[family]].reads)
    if "theta_gen" not in read:
        # Without a placed generator the verifier has no mistakes to share: ρ would only turn it.
        read -= {"error_correlation"}
    return read


def _path(spec: Spec, name: str) -> str:
    return f"sweep.{name}" if name in spec.sweep else name


def _check_combinations(spec: Spec) -> None:
    for point in combinations(spec, ["learner", "l2"]):
        if point["learner"] == "logistic" and np.float32(point["l2"]) == 0:
            raise SpecError(
                _path(spec, "l2"),
                spec.sweep.get("l2", 0.0),
                "must be > 0 with learner=logistic: on separable labels (an oracle's, say) the "
                "unpenalised minimiser lies at infinity; take a small l2 such as 1e-4, or ridge",
            )
    for point in combinations(spec, ["verifier", "phi", "psi"]):
        if point["verifier"] == "noisy" and point["phi"] == point["psi"] == 0:
            name = "psi" if "psi" in spec.sweep or "phi" not in spec.sweep else "phi"
            raise SpecError(
                _path(spec, name),
                spec.sweep.get(name, 0.0),
                "phi = psi = 0 keeps nothing, so there is nothing to train on; one must be > 0",
            )
    if spec.keep_classifiers and "d" in spec.sweep:
        raise SpecError(
            "keep_classifiers", True, "classifiers of different d do not fit one array; sweep no d"
        )
