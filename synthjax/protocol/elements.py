"""The points of a sweep that are run one after another: what each reads, its name, its results.

A spec here is one of a task whose fields before `start` make the first generator. `reads` gives
the fields that one combination of kinds (a field's name -> the kind chosen) reads.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from synthjax.protocol.spec import SpecError, combinations, fields_of, to_json

Reads = Callable[[Mapping[str, str]], set[str]]

MEASURED = {
    "p_hat": "measured rate of wrong guesses",
    "phi_hat": "measured rate at which right guesses are kept",
    "psi_hat": "measured rate at which wrong guesses are kept",
    "p_star_hat": "measured breakdown point",
}
STATUS = ("fine", "not_finite", "not_converged", "nothing_kept")


def reads(cls: type, kinds: Mapping[str, str]) -> set[str]:
    """The fields that some kind chosen reads, and those that no kind claims."""
    tables = {name: field.metadata["kinds"] for name, field in fields_of(cls).items()}
    parts = [kind for table in tables.values() for kind in (table or {}).values()]
    read = set(tables) - {name for kind in parts if not kind.own for name in kind.reads}
    for family, chosen in kinds.items():
        read |= set(tables[family][chosen].reads)
    return read


def read_by(point: Any, reads: Reads) -> set[str]:
    """The fields that a spec without axes reads."""
    return reads(_kinds_of(type(point), vars(point)))


def elements(spec: Any, reads: Reads) -> list[Any]:
    """The spec of every point of the sweep, in the order of the axes.

    What a point does not read is at its default there: points that do not differ are equal.
    """
    fields = fields_of(spec)
    rest = {name: getattr(spec, name) for name in fields if name != "sweep"}
    found = []
    for values in combinations(spec, spec.sweep):
        own = rest | values
        read = reads(_kinds_of(type(spec), own))
        unread = {name: fields[name].default for name in rest if name not in read}
        found.append(type(spec)(**own | unread))
    return found


def _kinds_of(cls: type, values: Mapping[str, Any]) -> dict[str, str]:
    return {n: values[n] for n, field in fields_of(cls).items() if field.metadata.get("kinds")}


def name_of(point: Any, swept: Sequence[str], reads: Reads) -> str:
    """The name of a sweep's point: what is swept and what it reads of that."""
    return _named("run", point, [name for name in swept if name in read_by(point, reads)])


def first_fields(cls: type) -> set[str]:
    """What makes the first generator: points of a sweep that agree in these share it."""
    names = list(fields_of(cls))
    return set(names[: names.index("start")])


def first_of(point: Any, swept: Sequence[str], reads: Reads) -> str:
    """The name of a point's first generator, which points share that agree in what makes it."""
    first = first_fields(type(point)) & read_by(point, reads)
    own = _named("", point, [name for name in swept if name in first])
    return f"first,{own}" if own else "first"


def _named(rest: str, point: Any, names: Sequence[str]) -> str:
    text = ",".join(f"{name}={getattr(point, name)}" for name in names)
    return re.sub(r"[^\w.,=+-]", "_", text) or rest


def check_batch(spec: Any, points: Sequence[Any], parts: int) -> None:
    """Raises SpecError where a batch does not split evenly into so many parts."""
    for point in points:
        if point.batch % (parts * point.accumulate):
            swept = "batch" in spec.sweep
            raise SpecError(
                "sweep.batch" if swept else "batch",
                spec.sweep["batch"] if swept else point.batch,
                f"must be a multiple of the {parts} devices that share it times accumulate, which "
                f"is {point.accumulate}",
            )


# How what a workdir records of files begins: that of a file which no earlier spec read may be new.
FILE = "sha256 of "


def goes_on(free: Collection[str]) -> Callable[[Mapping, Mapping], bool]:
    """Whether a spec (as JSON) has all axes and values of one begun, and as many generations."""

    def goes_on(new: Mapping, begun: Mapping) -> bool:
        new, begun = dict(new), dict(begun)
        axes, fewer = new.pop("sweep", {}), begun.pop("sweep", {})
        longer = new.pop("generations", 0) >= begun.pop("generations", 0)
        new = {k: v for k, v in new.items() if k in begun or not k.startswith(FILE)}
        new, begun = ({k: v for k, v in spec.items() if k not in free} for spec in (new, begun))
        inside = axes.keys() == fewer.keys() and all(set(fewer[n]) <= set(axes[n]) for n in axes)
        return new == begun and longer and inside

    return goes_on


def rates(dimension: str) -> dict[str, tuple[str, tuple[str]]]:
    """`to_dataset`'s variables for MEASURED and their limits, along one more dimension."""
    return {
        name + suffix: (long_name + end, "1", (dimension,))
        for name, long_name in MEASURED.items()
        for suffix, end in (("", ""), ("_low", ", 95 % low"), ("_high", ", 95 % high"))
    }


def to_dataset(
    spec: Any,
    records: Sequence[Sequence[Mapping[str, np.ndarray]]],
    variables: Mapping[str, tuple[str, str, tuple[str, ...]]],
    dimensions: Mapping[str, tuple[Sequence, str]],
) -> xr.Dataset:
    """Results from records[point of the grid][generation]; NaN where nothing was measured.

    `variables`: name -> (long name, unit, dimensions after `generation`), of records; `status`
    joins them. `dimensions`: name -> (coordinates, long name).
    """
    coordinates = {}
    for name, values in spec.sweep.items():
        about = fields_of(spec)[name].metadata
        about = {"units": about["unit"], "long_name": about["doc"]}
        coordinates[name] = (name, list(values), about)
    generations = np.arange(spec.generations + 1), "times trained on guesses"
    for name, (values, long_name) in {"generation": generations, **dimensions}.items():
        coordinates[name] = (name, values, {"units": "1", "long_name": long_name})
    grid = tuple(len(values) for values in spec.sweep.values())
    found = {}
    for name, (long_name, unit, tail) in (
        *variables.items(),
        ("status", ("how the generation went", "1", ())),
    ):
        shape = tuple(len(coordinates[dimension][1]) for dimension in tail)
        nothing = np.full(shape, np.nan)
        values = [[record.get(name, nothing) for record in point] for point in records]
        values = np.reshape(np.asarray(values, np.float64), (*grid, len(generations[0]), *shape))
        attrs = {"units": unit, "long_name": long_name}
        if name == "status":
            values = values.astype(np.int8)
            attrs |= {
                "flag_values": np.arange(len(STATUS), dtype=np.int8),
                "flag_meanings": " ".join(STATUS),
            }
        found[name] = ((*spec.sweep, "generation", *tail), values, attrs)
    return xr.Dataset(found, coordinates, {"spec": to_json(spec)})
