"""What a Gaussian-mixture self-training run is: every field, its default, unit and range."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from synthjax.mixture import engine
from synthjax.mixture.covariance import COVARIANCES
from synthjax.mixture.data import FEATURES, GENERATORS
from synthjax.mixture.learn import LEARNERS
from synthjax.mixture.verify import VERIFIERS
from synthjax.protocol import spec as protocol
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

PI = float(np.float32(np.pi))  # a little more than π, so that float32's own is in range


@dataclasses.dataclass(frozen=True)
class Spec:
    """One Gaussian-mixture sweep, as in arXiv 2406.07515. Angles are in radians.

    The order of the fields is the order of the axes in results. `generator`, `verifier` and
    `learner` take a function or class of your own as well, which is `register`ed under its name.
    Raises SpecError, naming `config.<field>`, on construction: a spec that exists is one that runs.
    """

    features: str = config_field("teacher", "law of x and of its true label y", kinds=FEATURES)
    signal: float = config_field(
        1.0, "‖μ‖, distance of a mixture component from 0", low=0, high=10, low_open=True
    )
    covariance: str = config_field("isotropic", "Σ of the features", kinds=COVARIANCES)
    covariance_decay: float = config_field(
        1.0, "how fast the eigenvalues of Σ fall, a power", low=0, high=4
    )
    initial: str = config_field("angle", "where w₀ comes from", kinds=INITIALS)
    generator: str = config_field(
        "linear", "who labels the synthetic examples", kinds=GENERATORS, own=True
    )
    verifier: str = config_field("none", "who decides what to keep", kinds=VERIFIERS, own=True)
    selection: str = config_field("prune", "how verdicts become a selection", kinds=SELECTIONS)
    regime: str = config_field("replace", "what a training set is made of", kinds=REGIMES)
    learner: str = config_field(
        "logistic", "what trains on the selection", kinds=LEARNERS, own=True
    )
    engine: str = config_field("auto", "how it is simulated", kinds=engine.ENGINES, axis=False)
    n: int = config_field(1000, "synthetic examples of a generation", low=1, high=2**30)
    d: int = config_field(50, "number of features", low=3, high=2**20)
    n_real: int = config_field(1000, "real examples that train w₀", low=1, high=2**30)
    k: int = config_field(4, "guesses that best_of_k draws for each example", low=1, high=1024)
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
    p_plus: float = config_field(
        0.3, "chance that flip_by_class mislabels where y = 1", low=0, high=1
    )
    p_minus: float = config_field(
        0.3, "chance that flip_by_class mislabels where y = -1", low=0, high=1
    )
    temperature: float = config_field(
        1.0, "of the logistic generator: 0 would be the linear one", low=0, high=1e6, low_open=True
    )
    phi: float = config_field(1.0, "φ, chance that a right guess is kept", low=0, high=1)
    psi: float = config_field(0.5, "ψ, chance that a wrong guess is kept", low=0, high=1)
    phi_plus: float = config_field(1.0, "φ where y = 1", low=0, high=1)
    phi_minus: float = config_field(1.0, "φ where y = -1", low=0, high=1)
    psi_plus: float = config_field(0.5, "ψ where y = 1", low=0, high=1)
    psi_minus: float = config_field(0.5, "ψ where y = -1", low=0, high=1)
    theta_ver: float = config_field(
        0.5, "angle of the verifier's classifier from w*", unit="rad", low=0, high=PI
    )
    error_correlation: float = config_field(
        0.0, "ρ, how far the verifier shares the generator's mistakes", low=-1, high=1
    )
    keep: float = config_field(
        0.5, "fraction of the guesses that a ranking verifier keeps", low=0, high=1, low_open=True
    )
    real_fraction: float = config_field(
        0.5, "fraction of a generation's n examples that mix draws real", low=0, high=1
    )
    l2: float = config_field(0.01, "λ of the learner's (λ/2)‖w‖²", low=0, high=1e6)
    memory_gb: float = config_field(
        2.0,
        "memory for the features and what is computed from them at one time: of all CPU devices "
        "of a process together, or of each accelerator",
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
    read = set(tables) - {name for kind in parts if not kind.own for name in kind.reads}
    # A kind may read another kind's field (linear reads initial), and that one reads more.
    for _ in range(2):
        for family in read & set(kinds):
            read |= set(tables[family][kinds[family]].reads)
    if "theta_gen" not in read:
        # Without a placed generator the verifier has no mistakes to share: ρ would only turn it.
        read -= {"error_correlation"}
    if "k" in read:
        read -= {"keep"}  # one guess for each example is kept
    return read


def register(family: str, part: Callable, name: str = "", reads: Iterable[str] = ()) -> str:
    """Give a generator, verifier or learner of your own a name that specs and flags know.

    `family` is "generator", "verifier" or "learner"; `part` a function, or an instance of a frozen
    dataclass, that is a `Generator`, `Verifier` or `Learner`. `name` is by default a function's own
    or the dataclass's repr, which tells its settings. `reads` names the fields of the spec that it
    needs (default: its attribute `reads`, if it has one). Its docstring's first line is its help.
    Returns the name. A name may be registered again: the next run takes the newer part.

    Raises SpecError: no such family or field, a part that cannot be called or hashed, a part
    without a name, a name that synthjax itself uses.
    """
    fields = fields_of(Spec)
    families = [name for name, field in fields.items() if field.metadata.get("own")]
    if family not in families:
        raise SpecError(family, part, "takes no part of one's own", families)
    return protocol.register(fields[family], part, name, reads, fields)


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
    for verifier, rates in (("noisy", ("phi", "psi")), ("noisy_by_class", BY_CLASS)):
        for point in combinations(spec, ["verifier", "selection", *rates]):
            chosen = (point["verifier"], point["selection"]) == (verifier, "prune")
            if chosen and not any(point[name] for name in rates):
                name = next((name for name in reversed(rates) if name in spec.sweep), rates[-1])
                raise SpecError(
                    _path(spec, name),
                    spec.sweep.get(name, 0.0),
                    f"{' = '.join(rates)} = 0 keeps nothing, so there is nothing to train on; "
                    "one must be > 0",
                )
    for point in combinations(spec, ["generator", "verifier", "selection"]):
        if (point["generator"], point["selection"]) == ("linear", "best_of_k"):
            raise SpecError(
                _path(spec, "selection"),
                spec.sweep.get("selection", "best_of_k"),
                "means nothing with generator=linear, whose k guesses are all alike; take a "
                "generator that guesses at random, such as logistic",
            )
        placed = "initial" in GENERATORS[point["generator"]].reads
        if point["verifier"] == "self" and not placed:
            raise SpecError(
                _path(spec, "verifier"),
                spec.sweep.get("verifier", "self"),
                f"means nothing with generator={point['generator']}: in generation 1 it has no "
                "classifier that could be sure of anything; take generator=linear or logistic",
            )
    for point in combinations(spec, ["selection", "n", "k"]):
        if point["selection"] == "best_of_k" and point["n"] * point["k"] >= 2**31:
            raise SpecError(
                _path(spec, "k"),
                spec.sweep.get("k", spec.k),
                f"n k must stay below 2^31; n is {point['n']}",
            )
    kinds = [name for name, field in fields_of(spec).items() if field.metadata["kinds"]]
    for point in combinations(spec, [*kinds, "l2", "keep_classifiers"]):
        if reason := engine.refused(spec.engine, point):
            name, why = reason
            raise SpecError(
                "engine",
                spec.engine,
                f"cannot take {name}={point[name]!r}: {why}; engine=direct can",
            )
    if spec.keep_classifiers and "d" in spec.sweep:
        raise SpecError(
            "keep_classifiers", True, "classifiers of different d do not fit one array; sweep no d"
        )


BY_CLASS = ("phi_plus", "phi_minus", "psi_plus", "psi_minus")
