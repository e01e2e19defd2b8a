"""Records of a sweep as labelled results, with the theory beside them."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from synthjax import host
from synthjax.mixture import evolution
from synthjax.mixture.data import Numbers
from synthjax.mixture.plan import groups
from synthjax.mixture.population import Population, population, unknown
from synthjax.mixture.spec import Spec
from synthjax.mixture.theory import required_verifier
from synthjax.mixture.trajectory import NOT_CONVERGED, STATUS, Record, Static
from synthjax.protocol.proxy import rates
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.spec import fields_of, to_json

# name: (unit, long name)
RECORDED = {
    "accuracy": ("1", "agreement with the Bayes classifier"),
    "test_accuracy": ("1", "agreement with the true label"),
    "overlap": ("1", "cosine of the classifier with w*"),
    "verifier_overlap": ("1", "cosine of the classifier with v, the verifier's own"),
    "norm": ("1", "norm of the classifier"),
    "products": ("1", "products with the features that a matrix-free learner asked for"),
}
MEASURED = {
    "p_hat": ("1", "measured rate of wrong guesses"),
    "phi_hat": ("1", "measured rate at which right guesses are kept"),
    "psi_hat": ("1", "measured rate at which wrong guesses are kept"),
    "p_star_hat": ("1", "measured breakdown point"),
}
THEORY = {
    "population_accuracy": ("1", "accuracy in the limit of infinitely many examples"),
    "p_star": ("1", "breakdown point in the limit of infinitely many examples"),
    "evolution_accuracy": ("1", "accuracy by state evolution, at this n and d"),
}
# Generations of logistic state evolution, at some 10 ms each, that a run computes for a reference.
MOST_EVOLVED = 10_000


def shapes(static: Static, points: int, trajectories: int) -> Record:
    """Shape and dtype of the records of some grid points and trajectories."""
    times = static.generations + 1 - (static.first if static.first > 1 else 0)
    shape = (points, trajectories, times)
    carried = times if static.carried > 1 else 1
    return _record(
        shape, (*shape[:2], carried, static.coordinates), static.keep_classifiers, static.d
    )


def empty(spec: Spec, goes_on: bool) -> Record:
    """Arrays [grid point, trajectory, generation, …] for the records of a whole sweep.

    With what trajectories carry along only where some of them `goes_on`; of several d the longest.
    """
    grid = math.prod(len(values) for values in spec.sweep.values())
    shape = (grid, spec.trajectories, spec.generations + 1)
    carried = None
    if goes_on:
        regimes = spec.sweep.get("regime", (spec.regime,))
        past = any(REGIMES[regime].call.past for regime in regimes)
        longest = max(spec.sweep.get("d", (spec.d,)))
        carried = (*shape[:2], shape[2] if past else 1, longest)
    record = _record(shape, carried, spec.keep_classifiers, spec.d)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), record)


def _record(
    shape: tuple[int, ...], carried: tuple[int, ...] | None, keep_classifiers: bool, d: int
) -> Record:
    real = jax.ShapeDtypeStruct(shape, np.float32)
    count = jax.ShapeDtypeStruct(shape, np.int32)
    classifier = jax.ShapeDtypeStruct((*shape, d), np.float32) if keep_classifiers else None
    carried = jax.ShapeDtypeStruct(carried, np.float32) if carried else None
    return Record(*[real] * 5, *[count] * 6, carried, classifier)


class Limit(NamedTuple):
    """The theory of every grid point, [grid point, generation], NaN where there is none.

    `evolution` is the accuracy in high dimension at the point's n and d. `missing` and
    `not_evolved` say where there is none of either and why; empty if there is some everywhere.
    """

    accuracy: Float[np.ndarray, "points t"]
    p_star: Float[np.ndarray, "points t"]
    missing: str
    evolution: Float[np.ndarray, "points t"]
    not_evolved: str


def to_dataset(spec: Spec, records: Record, limit: Limit) -> xr.Dataset:
    """Results with one dimension per swept field in field order, `trajectory`, `generation`."""
    grid = tuple(len(values) for values in spec.sweep.values())

    def variable(values, unit, long_name, tail=("trajectory", "generation"), **attrs):
        values = values.reshape(*grid, *values.shape[1:])
        return (*spec.sweep, *tail), values, {"units": unit, "long_name": long_name, **attrs}

    variables = {name: variable(getattr(records, name), *about) for name, about in RECORDED.items()}
    measured = rates(records.right, records.wrong, records.kept_right, records.kept_wrong)
    for name, (unit, long_name) in MEASURED.items():
        for suffix, end in (("", ""), ("_low", ", 95 % low"), ("_high", ", 95 % high")):
            values = measured[name + suffix].astype(np.float32)
            variables[name + suffix] = variable(values, unit, long_name + end)
    guesses = records.right + records.wrong
    kept = (records.kept_right + records.kept_wrong) / np.where(guesses > 0, guesses, np.nan)
    variables["kept"] = variable(kept.astype(np.float32), "1", "fraction of the guesses kept")
    variables["status"] = variable(
        records.status.astype(np.int8),
        "1",
        "how the generation went",
        flag_values=np.arange(len(STATUS), dtype=np.int8),
        flag_meanings=" ".join(STATUS),
    )
    if records.classifier is not None:
        tail = ("trajectory", "generation", "feature")
        variables["classifier"] = variable(records.classifier, "1", "classifier w_t", tail)
    evolved = limit.evolution
    if spec.engine == "state_evolution":
        lost = records.status[:, 0] == NOT_CONVERGED
        evolved = np.where(lost, np.float32(np.nan), records.accuracy[:, 0])
    for name, values, missing in (
        ("population_accuracy", limit.accuracy, limit.missing),
        ("p_star", limit.p_star, limit.missing),
        ("evolution_accuracy", evolved, limit.not_evolved),
    ):
        missing = {"missing": missing} if missing else {}
        variables[name] = variable(values, *THEORY[name], ("generation",), **missing)
    return xr.Dataset(variables, _coordinates(spec), {"spec": to_json(spec)})


def declared(spec: Spec) -> xr.Dataset:
    """The variables and axes that results of `spec` will have, of each axis the first value."""
    measured = (name + end for name in MEASURED for end in ("", "_low", "_high"))
    tails = dict.fromkeys(
        [*RECORDED, *measured, "kept", "status"], ("trajectory", "generation")
    ) | dict.fromkeys(THEORY, ("generation",))
    if spec.keep_classifiers:
        tails["classifier"] = ("trajectory", "generation", "feature")
    variables = {}
    for name, tail in tails.items():
        axes = (*spec.sweep, *tail)
        variables[name] = axes, np.zeros([1] * len(axes), np.float32)
    first = {name: (name, list(values)[:1]) for name, values in spec.sweep.items()}
    return xr.Dataset(variables, first, {"spec": to_json(spec)})


def _coordinates(spec: Spec) -> dict:
    coordinates = {}
    for name, values in spec.sweep.items():
        about = fields_of(spec)[name].metadata
        coordinates[name] = (
            name,
            list(values),
            {"units": about["unit"], "long_name": about["doc"]},
        )
    for name, count, long_name in (
        ("trajectory", spec.trajectories, "independent repeat"),
        ("generation", spec.generations + 1, "times trained on synthetic data"),
    ):
        coordinates[name] = (name, np.arange(count), {"units": "1", "long_name": long_name})
    return coordinates


def theory(spec: Spec) -> Limit:
    """The limit of infinitely many examples, and state evolution, at every grid point."""
    grid = math.prod(len(values) for values in spec.sweep.values())
    accuracy = np.full((grid, spec.generations + 1), np.nan, np.float32)
    p_star = accuracy.copy()
    evolved, not_evolved = accuracy.copy(), ""
    if spec.engine != "state_evolution":  # whose records are just that
        evolved, not_evolved = evolve(spec, evolved)
    missing, alike = {}, {}
    for group in groups(spec):
        if reason := unknown(group.kinds):
            missing[reason] = None
            continue
        static, numbers = group.static, group.numbers
        if not (static.parts and static.real):  # elsewhere the size has gone to infinity
            numbers = numbers._replace(n=np.int32(1), n_real=np.int32(1))
        rows = np.stack([np.broadcast_to(number, len(group.where)) for number in numbers], 1)
        alike.setdefault((*group.kinds.items(), static.d), []).append((group.where, rows))
    for (*kinds, d), parts in alike.items():
        where, rows = (np.concatenate(part) for part in zip(*parts, strict=True))
        rows, back = np.unique(rows, axis=0, return_inverse=True)
        numbers = Numbers(
            *(
                column.astype(number.dtype)
                for column, number in zip(rows.T, group.numbers, strict=True)
            )
        )
        with jax.default_device(host()):
            found = _population(_built_in(dict(kinds)), spec.generations, d, numbers)
        accuracy[where], p_star[where] = (np.asarray(leaf)[back.ravel()] for leaf in found)
    return Limit(accuracy, p_star, "; ".join(missing), evolved, not_evolved)


def evolve(
    spec: Spec, accuracy: Float[np.ndarray, "points t"]
) -> tuple[Float[np.ndarray, "points t"], str]:
    """`accuracy` with that of state evolution filled in, and where there is none and why."""
    missing = {}
    for group in groups(spec):
        points = len(group.where)
        reason = evolution.unknown(group.kinds)
        if group.kinds["learner"] == "logistic" and points * spec.generations > MOST_EVOLVED:
            reason = reason or (
                f"more than {MOST_EVOLVED} generations of logistic regression: "
                "run it with engine=state_evolution"
            )
        if reason:
            missing[reason] = None
            continue
        # A power of two of points, so that one program serves many sweeps.
        padded = np.minimum(np.arange(max(16, 1 << (points - 1).bit_length())), points - 1)
        numbers = (np.broadcast_to(number, points)[padded] for number in group.numbers)
        with jax.default_device(host()):
            found = _evolution(
                _built_in(group.kinds), spec.generations, Numbers(*numbers), group.static.d
            )
        accuracy[group.where] = np.where(found.converged, found.accuracy, np.nan)[:points]
    return accuracy, "; ".join(missing)


def required(
    spec: Spec,
    targets: Sequence[float],
    ns: Sequence[int],
    done: Callable[[int], object] = lambda count: None,
) -> xr.Dataset:
    """`theory.required_verifier` for every n and target accuracy, labelled.

    Calls done(1) after every n. Raises its SpecErrors.
    """

    @jax.jit
    def angles(n):
        return jax.vmap(lambda target: required_verifier(target, spec, n=n))(
            jnp.asarray(targets, float)
        )

    found = np.zeros((len(ns), len(targets)), np.float32)
    with jax.default_device(host()):
        for row, n in zip(found, ns, strict=True):
            row[:] = angles(np.float32(n))
            done(1)
    about = {"units": "rad", "long_name": "largest angle of a verifier that reaches the target"}
    return xr.Dataset(
        {"required_theta_ver": (("n", "target"), found, about)},
        {
            "n": ("n", list(ns), {"units": "1", "long_name": fields_of(spec)["n"].metadata["doc"]}),
            "target": ("target", list(targets), {"units": "1", "long_name": "accuracy wanted"}),
        },
        {"spec": to_json(spec)},
    )


def _built_in(kinds: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((family, kind) for family, kind in kinds.items() if family != "engine")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evolution(
    kinds: tuple[tuple[str, str], ...],
    generations: int,
    numbers: Numbers,
    d: Int[Array, ""],
) -> evolution.Evolution:
    """`evolution` of every point, one at a time: each stops where it has converged."""
    call = functools.partial(evolution.evolution, **dict(kinds), generations=generations, d=d)
    return jax.lax.map(lambda point: call(**point._asdict()), numbers)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _population(
    kinds: tuple[tuple[str, str], ...], generations: int, d: int, numbers: Numbers
) -> Population:
    """`population` of every point; one at a time, which a CPU does faster than all at once."""
    call = functools.partial(population, **dict(kinds), generations=generations, d=d)
    return jax.lax.map(lambda point: call(**point._asdict()), numbers)
