"""Specs: frozen dataclasses that own the truth about a run, and the errors they raise.

A spec travels dataclass -> ConfigDict -> flags -> the dataclass again, rebuilt and validated from
the final values; ml_collections only parses. `config_field` gives every field its meaning, unit
and range, from which the checks, the `--help` text and the labels of results are made.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import config_dict


class Kind(NamedTuple):
    """One interchangeable part (a verifier, a generator, a learner, …).

    Fields: `call` does the work; `reads` names the spec fields that it needs (a field that no
    chosen kind reads must not be set); `doc` is a line for `--help`; `own`: a user made it.
    """

    call: Any
    reads: tuple[str, ...]
    doc: str
    own: bool = False


class SpecError(ValueError):
    """A spec that cannot run: names the config path, the value, the rule and the choices."""

    def __init__(self, path: str, value: Any, rule: str, choices: Iterable[str] = ()):
        self.path, self.value, self.rule, self.choices = path, value, rule, tuple(choices)
        listed = f"; choices: {', '.join(self.choices)}" if self.choices else ""
        super().__init__(f"config.{path} = {value!r}: {rule}{listed}")


@contextlib.contextmanager
def read_from(path: str, value: str, errors: type[Exception]) -> Iterator[None]:
    """Errors of a file or folder, which name it, begin with the field that did so."""
    try:
        yield
    except errors as error:
        raise type(error)(f"config.{path} = {value!r}: {error}") from None


class UnreadError(SpecError):
    """A field that no chosen kind reads."""


def config_field(
    default: Any,
    doc: str,
    *,
    unit: str = "1",
    low: float = 0,
    high: float = math.inf,
    low_open: bool = False,
    kinds: dict[str, Kind] | None = None,
    own: bool = False,
    axis: bool = True,
) -> Any:
    """A dataclass field with its meaning: unit, closed range (`low_open`: low excluded), kinds.

    `own`: whether users may add kinds. `axis`: whether `sweep` may vary it.
    """
    if isinstance(default, dict):
        return dataclasses.field(
            default_factory=default.copy, metadata={"doc": doc, "kinds": None, "axis": False}
        )
    metadata = {
        "doc": doc,
        "unit": unit,
        "low": low,
        "high": high,
        "low_open": low_open,
        "kinds": kinds,
        "own": own,
        "axis": axis,
    }
    return dataclasses.field(default=default, metadata=metadata)


def counts_field(default: Mapping[str, int], doc: str) -> Any:
    """A dataclass field of several counts by name, whose flags are --config.FIELD.NAME; or −1."""
    metadata = {"doc": doc, "unit": "1", "kinds": None, "axis": False, "names": (*default,)}
    return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)


def fields_of(spec: Any) -> dict[str, dataclasses.Field]:
    """Name -> field, in declaration order, which is also the order of a result's axes."""
    return {field.name: field for field in dataclasses.fields(spec)}


def rule_of(field: dataclasses.Field) -> str:
    """The rule that a value of this field obeys, in words."""
    meta = field.metadata
    if meta["kinds"] is not None:
        return "must be a known kind"
    if "names" in meta:
        return "must be an integer >= 1, or -1"
    if field.type is bool:
        return "must be True or False"
    if field.type is str:
        return "must be a text"
    word = "an integer" if field.type is int else "a finite number"
    bounds = [("> " if meta["low_open"] else ">= ") + f"{meta['low']:.10g}"]
    bounds += [f"<= {meta['high']:.10g}"] * math.isfinite(meta["high"])
    return " ".join(["must be", word, " and ".join(bounds)]).strip()


def register(
    field: dataclasses.Field,
    part: Callable,
    name: str = "",
    reads: Iterable[str] = (),
    fields: Iterable[str] = (),
) -> str:
    """Add a part of the user's own to a field's kinds, and return its name.

    `name` and `reads` are by default a function's name or a dataclass's repr, and its attribute
    `reads`; `fields` are all that it may read. Raises SpecError where that makes no kind.
    """
    kinds, path = field.metadata["kinds"], field.name
    own = dataclasses.is_dataclass(part) and not isinstance(part, type)
    name = name or (repr(part) if own else getattr(part, "__name__", ""))
    if not callable(part) or isinstance(part, type):
        raise SpecError(path, part, "must be a function, or an object that can be called")
    if not name or name.startswith("<"):
        raise SpecError(path, part, "has no name: register it under one")
    try:
        hash(part)
    except TypeError:
        raise SpecError(path, part, "cannot be hashed: make its dataclass frozen") from None
    if name in kinds and not kinds[name].own:
        raise SpecError(path, name, "is synthjax's own: take another name")
    reads = tuple(reads) or tuple(getattr(part, "reads", ()))
    for read in reads:
        if fields and read not in fields:
            raise SpecError(path, name, f"reads {read!r}, which is no field", fields)
    doc = (getattr(part, "__doc__", None) or "a part of the user's own").strip().splitlines()[0]
    kinds[name] = Kind(part, reads, doc, own=True)
    return name


def check_value(field: dataclasses.Field, path: str, value: Any) -> Any:
    """The value as plain Python, or SpecError."""
    meta = field.metadata
    if meta["kinds"] is not None:
        if not isinstance(value, str) or value not in meta["kinds"]:
            rule = rule_of(field) + " (your own: register it first)" * meta["own"]
            raise SpecError(path, value, rule, meta["kinds"])
        return str(value)
    if names := meta.get("names"):
        if not isinstance(value, Mapping):
            raise SpecError(path, value, f"must map {', '.join(names)} to integers")
        for name in value:
            if name not in names:
                raise SpecError(f"{path}.{name}", value[name], "is no field", names)
        for name in names:
            count = value.get(name)
            good = isinstance(count, numbers.Integral) and not isinstance(count, bool)
            if not good or (count < 1 and count != -1):
                raise SpecError(f"{path}.{name}", count, rule_of(field))
        return {name: int(value[name]) for name in names}
    if field.type is bool:
        if not isinstance(value, bool):
            raise SpecError(path, value, rule_of(field))
        return value
    if field.type is str:
        if not isinstance(value, str):
            raise SpecError(path, value, rule_of(field))
        return value
    wanted = numbers.Integral if field.type is int else numbers.Real
    ok = isinstance(value, wanted) and not isinstance(value, bool)
    ok = ok and meta["low"] <= value <= meta["high"] and value < math.inf
    if not ok or (meta["low_open"] and value == meta["low"]):
        raise SpecError(path, value, rule_of(field))
    return field.type(value)


def check_values(spec: Any) -> None:
    """Check every field and axis of a spec with a `sweep` and normalise them in place.

    A part of the user's own is registered, and its name put in its place.
    Axes come out in field order as tuples of plain values. Called by `__post_init__`.
    """
    fields = fields_of(spec)

    def checked(name, path, value):
        if callable(value) and fields[name].metadata.get("own"):
            kinds = fields[name].metadata["kinds"]
            known = (name for name, kind in kinds.items() if kind.own and kind.call == value)
            return next(known, None) or register(fields[name], value, fields=fields)
        try:
            return check_value(fields[name], path, value)
        except SpecError as error:
            several = isinstance(value, Sequence) and not isinstance(value, str)
            if path != name or not several or not fields[name].metadata["axis"]:
                raise
            rule = f"{error.rule}; several values are sweep={{{name!r}: {value!r}}}"
            raise SpecError(path, value, rule, error.choices) from None

    for name in fields:
        if name != "sweep":
            object.__setattr__(spec, name, checked(name, name, getattr(spec, name)))
    if not isinstance(spec.sweep, Mapping):
        raise SpecError("sweep", spec.sweep, "must map a field's name to a tuple of values")
    axes = [name for name, field in fields.items() if field.metadata["axis"]]
    sweep = {name: values for name, values in spec.sweep.items() if values is not None}
    for name, values in sweep.items():
        path = f"sweep.{name}"
        if name not in axes:
            raise SpecError(path, values, "is no field that can be swept", axes)
        try:
            values = (*values,) if not isinstance(values, str) else None
        except TypeError:
            values = None
        if values is None:
            raise SpecError(path, sweep[name], "must be a tuple of values")
        values = tuple(checked(name, path, value) for value in values)
        if not values:
            raise SpecError(path, values, "an axis needs at least one value")
        if len(set(values)) < len(values):
            raise SpecError(path, values, "the values of an axis must differ")
        sweep[name] = values
    object.__setattr__(spec, "sweep", {name: sweep[name] for name in axes if name in sweep})


def check_reads(spec: Any, reads: Callable[[Mapping[str, Any]], set[str]], explicit=()) -> None:
    """Refuse a field that is swept, set in `explicit` or off its default, and read by nothing.

    `reads` gives the fields that one combination of kinds reads; in a sweep over kinds it is
    enough that some combination reads the field.
    """
    fields = fields_of(spec)
    chosen = list(combinations(spec, [n for n in fields if fields[n].metadata["kinds"]]))
    read = set().union(*map(reads, chosen))
    for name, field in fields.items():
        if name in read or name == "sweep":
            continue
        swept = name in spec.sweep
        if swept or name in explicit or getattr(spec, name) != field.default:
            kinds = ", ".join(
                f"{other}={'|'.join(spec.sweep.get(other, (getattr(spec, other),)))}"
                for other in fields
                if fields[other].metadata["kinds"] and other in read
            )
            others = [
                (other, kind, part)
                for other in fields
                for kind, part in (fields[other].metadata["kinds"] or {}).items()
                if not any(one[other] == kind for one in chosen)
            ]
            # What alone would make it read; else a part of what it takes.
            readers = [
                f"{other}={kind}"
                for other, kind, _ in others
                if any(name in reads(one | {other: kind}) for one in chosen)
            ] or [f"{other}={kind}" for other, kind, part in others if name in part.reads]
            rule = f"only {' or '.join(readers)} would" if readers else "no other kind would"
            path, value = (
                (f"sweep.{name}", spec.sweep[name]) if swept else (name, getattr(spec, name))
            )
            raise UnreadError(path, value, f"nothing reads it with {kinds}; {rule}")


def combinations(spec: Any, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Every combination of the swept values of `names`; a field that is not swept has one."""
    names = list(names)
    axes = [spec.sweep.get(name, (getattr(spec, name),)) for name in names]
    for values in itertools.product(*axes):
        yield dict(zip(names, values, strict=True))


def to_json(spec: Any) -> str:
    """The spec as one line of JSON, axes in canonical order."""
    return json.dumps(dataclasses.asdict(spec))


def from_json(cls: type, text: str) -> Any:
    """The spec of `to_json`, validated again."""
    return cls(**json.loads(text))


def to_config(spec: Any) -> config_dict.ConfigDict:
    """A ConfigDict to override by flags; every field that can be swept has a place for its axis."""
    values = {name: getattr(spec, name) for name in fields_of(spec) if name != "sweep"}
    config = config_dict.ConfigDict(values)
    config.sweep = config_dict.ConfigDict()
    for name, field in fields_of(spec).items():
        if field.metadata["axis"]:
            config.sweep[name] = config_dict.placeholder(tuple)
            config.sweep[name] = spec.sweep.get(name)
    return config


def from_config(cls: type, config: config_dict.ConfigDict) -> Any:
    """The spec rebuilt from a ConfigDict after overrides, and validated."""
    values = config.to_dict()
    for name in values.keys() - fields_of(cls):
        raise SpecError(name, values[name], "is no field", fields_of(cls))
    values["sweep"] = {k: v for k, v in values["sweep"].items() if v is not None}
    return cls(**values)


def describe(cls: type) -> str:
    """One line per field for `--help`: name, default, unit and range or choices, meaning."""
    lines = []
    for name, field in fields_of(cls).items():
        meta = field.metadata
        if meta["kinds"] is not None:
            rule = "one of " + ", ".join(meta["kinds"])
        elif name == "sweep":
            lines.append(f"  sweep.FIELD=(a,b,…): {meta['doc']}")
            continue
        elif "names" in meta:
            rule = rule_of(field).removeprefix("must be ")
            named = ", ".join(f"{name}={count}" for name, count in field.default_factory().items())
            lines.append(f"  {name}.NAME, {named}: {meta['doc']} ({rule}; cannot be swept)")
            continue
        else:
            rule = rule_of(field).removeprefix("must be ")
            rule += "" if meta["unit"] == "1" else f", in {meta['unit']}"
        sweep = "" if meta["axis"] else "; cannot be swept"
        lines.append(f"  {name}={field.default}: {meta['doc']} ({rule}{sweep})")
    return "\n".join(lines)
