"""Records of a sweep as labelled results, with the theory beside them."""

import functools
import math

import jax
import numpy as np
import xarray as xr

from synthjax.mixture.data import Numbers
from synthjax.mixture.plan import Group
from synthjax.mixture.spec import Spec
from synthjax.mixture.theory import Population, population
from synthjax.mixture.trajectory import STATUS, Record
from synthjax.protocol.proxy import rates
from synthjax.protocol.spec import fields_of, to_json

# name: (unit, long name)
RECORDED = {
    "accuracy": ("1", "agreement with the Bayes classifier"),
    "test_accuracy": ("1", "agreement with the true label"),
    "overlap": ("1", "cosine of the classifier with w*"),
    "norm": ("1", "norm of the classifier"),
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
}


def shapes(spec: Spec, points: int, trajectories: int) -> Record:
    """Shape and dtype of the records of some grid points and trajectories."""
    shape = (points, trajectories, spec.generations + 1)
    real = jax.ShapeDtypeStruct(shape, np.float32)
    count = jax.ShapeDtypeStruct(shape, np.int32)
    classifier = jax.ShapeDtypeStruct((*shape, spec.d), np.float32)
    return Record(*[real] * 4, *[count] * 5, classifier if spec.keep_classifiers else None)


def empty(spec: Spec) -> Record:
    """Arrays [grid point, trajectory, generation, …] for the records of a whole sweep."""
    grid = math.prod(len(values) for values in spec.sweep.values())
    return jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes(spec, grid, spec.trajectories)
    )


def to_dataset(spec: Spec, records: Record, limit: Population) -> xr.Dataset:
    """Results with one dimension per swept field in field order, `trajectory`, `generation`.

    `limit` is the theory of every grid point.
    """
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
    for values, (name, about) in zip(limit, THEORY.items(), strict=True):
        variables[name] = variable(values, *about, ("generation",))
    return xr.Dataset(variables, _coordinates(spec), {"spec": to_json(spec)})


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


def theory(spec: Spec, groups: list[Group]) -> Population:
    """The limit of infinitely many examples at every grid point, [grid point, generation]."""
    grid = math.prod(len(values) for values in spec.sweep.values())
    accuracy = np.full((grid, spec.generations + 1), np.nan, np.float32)
    p_star = accuracy.copy()
    found = {}
    for group in groups:
        kinds = tuple(getattr(group.static, kind) for kind in _KINDS)
        if kinds not in found:  # groups differ in kinds, shapes and seed, not in numbers
            numbers = Numbers(*(np.broadcast_to(v, len(group.where)) for v in group.numbers))
            with jax.default_device(_host()):
                found[kinds] = _population(kinds, spec.generations, numbers)
        accuracy[group.where], p_star[group.where] = found[kinds]
    return Population(accuracy, p_star)


_KINDS = ("features", "initial", "generator", "verifier", "learner")


def _host() -> jax.Device:
    """The CPU, which small work in long loops is for, unless JAX was told to leave it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _population(kinds: tuple[str, ...], generations: int, numbers: Numbers) -> Population:
    """`population` of every point; one at a time, which a CPU does faster than all at once."""
    chosen = dict(zip(_KINDS, kinds, strict=True))
    call = functools.partial(population, **chosen, generations=generations)
    return jax.lax.map(lambda point: call(**point._asdict()), numbers)
