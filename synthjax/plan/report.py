"""Plans in words: a table for each mesh, and the meshes by what they cost."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from synthjax import mixture
from synthjax.nn import sharding
from synthjax.plan.cost import Cost, cost
from synthjax.plan.programs import meshes, programs
from synthjax.plan.topology import devices as devices_of
from synthjax.protocol.spec import SpecError


def planned(
    spec: Any, topology: str | None, search: bool, console: Console
) -> list[dict[str, Any]]:
    """Print what the programs of a spec cost, and return it, a dict for each.

    With `search` for every mesh of a transformer, the best first. Raises SpecError, TopologyError,
    ModelError.
    """
    devices = devices_of(topology)
    kind, count = devices[0].device_kind, len(devices)
    where = f"{count} x {kind}" + (f" ({topology})" if topology else "")
    if isinstance(spec, mixture.Spec):
        return _one(spec, devices, where, console)[1]
    if not search:
        sizes = dict(zip(sharding.AXES, sharding.shape_of(spec.mesh, count), strict=True))
        return _one(dataclasses.replace(spec, mesh=sizes), devices, where, console)[1]
    ranked = []
    for sizes in meshes(spec, count):
        try:
            costs, lines = _one(dataclasses.replace(spec, mesh=sizes), devices, where, console)
        except SpecError as error:
            console.print(f"{_mesh(sizes)}: {error}", highlight=False)
            continue
        ranked.append((not all(one.fits for one in costs), _total(costs), sizes, costs, lines))
    ranked.sort(key=lambda row: row[:2])
    console.print(_ranking(ranked, where))
    return [line for *_, lines in ranked for line in lines]


def _one(spec, devices, where, console) -> tuple[list[Cost], list[dict]]:
    """Compile, print and record the programs of a spec on its mesh."""
    sizes = getattr(spec, "mesh", None)
    title = where + (f", mesh {_mesh(sizes)}" if sizes else "")
    costs = []
    for program in programs(spec, devices):
        console.print(f"compiling: {program.name}, {title}", highlight=False)
        costs.append(cost(program, devices[0], len(devices)))
    console.print(table(costs, title))
    for one in costs:
        for warning in warnings(one):
            console.print(f"{one.name}: {warning}", highlight=False)
    return costs, [one.as_json() | {"mesh": sizes} for one in costs]


def table(costs: list[Cost], title: str) -> Table:
    """What programs cost a device."""
    made = Table(title=title, title_justify="left")
    made.add_column("a device, a run of the program")
    for one in costs:
        made.add_column(one.name, justify="right")
    for name, call in ROWS.items():
        if any(cells := [call(one) for one in costs]):
            made.add_row(name, *cells)
    kinds = dict.fromkeys(key for one in costs for key in one.collectives())
    for kind, group in kinds:
        cells = [one.collectives().get((kind, group)) for one in costs]
        made.add_row(
            f"{kind} over {group}", *(f"{c[0]:,.0f}: {_bytes(c[1])}" if c else "" for c in cells)
        )
    return made


def warnings(one: Cost) -> list[str]:
    """What the numbers leave out."""
    found = []
    if one.work.bounded:
        found.append("a loop may end earlier than was counted (guesses that end)")
    if one.work.unknown:
        found.append(f"loops of unknown length, counted once: {len(one.work.unknown)}")
    if one.work.opaque:
        found.append(f"calls that were not counted: {', '.join(sorted(set(one.work.opaque)))}")
    return found


def _time(one: Cost, of: str) -> str:
    return _seconds(one.times[of]) if one.times else ""


def _per_second(one: Cost) -> str:
    if not one.predicted:
        return ""
    return "\n".join(
        f"{_number(count / one.predicted[1])} to {_number(count / one.predicted[0])} {name}"
        for name, count in one.counts.items()
    )


ROWS = {
    "memory": lambda c: f"{_bytes(c.memory)}{f' of {_bytes(c.limit)}' if c.limit else ''}",
    "fits": lambda c: ("yes" if c.fits else "NO") if c.limit else "",
    "  arguments": lambda c: "" if c.needed else _bytes(c.arguments),
    "  temporaries": lambda c: "" if c.needed else _bytes(c.temporaries),
    "  outputs, code": lambda c: "" if c.needed else _bytes(c.outputs + c.code),
    "FLOP of matrix products": lambda c: _number(c.work.flops),
    "model FLOP": lambda c: _number(c.model_flops / c.devices) if c.model_flops else "",
    "other arithmetic": lambda c: _number(c.work.vector),
    "bytes of memory": lambda c: _bytes(c.work.nbytes),
    "seconds: matrix products": lambda c: _time(c, "products"),
    "seconds: other arithmetic": lambda c: _time(c, "vector"),
    "seconds: memory": lambda c: _time(c, "memory"),
    "seconds: collectives": lambda c: _time(c, "collectives"),
    "predicted seconds": lambda c: " to ".join(map(_seconds, c.predicted or ())),
    "a second, all devices": _per_second,
    "model FLOP utilisation": lambda c: " to ".join(
        f"{v:.0%}" for v in (c.utilisation or ())[::-1]
    ),
    "compiled in": lambda c: f"{c.seconds:.1f} s",
}


def _ranking(ranked: list, where: str) -> Table:
    made = Table(title=f"meshes on {where}, the best first", title_justify="left")
    for name in ("mesh", "fits", "memory", "seconds of a generation's programs, at most"):
        made.add_column(name, justify="right")
    for unfit, total, sizes, costs, _ in ranked:
        memory = max(one.memory for one in costs)
        seconds = _seconds(total) if all(one.predicted for one in costs) else ""
        made.add_row(_mesh(sizes), "NO" if unfit else "yes", _bytes(memory), seconds)
    return made


def _total(costs: list[Cost]) -> float:
    """By what meshes are ranked: nothing overlaps; bytes where nothing is published."""
    return sum(one.runs * (one.predicted[1] if one.predicted else one.work.nbytes) for one in costs)


def _mesh(sizes) -> str:
    return " x ".join(f"{name} {size}" for name, size in sizes.items())


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.3g} {unit}"
        size /= 1024


def _number(value: float) -> str:
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {unit}"
    return f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{value:.3g}"
