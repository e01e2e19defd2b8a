"""A sweep's grid in blocks, each a spec of its own; and the results of the blocks as one again."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import xarray as xr

from synthjax.protocol.elements import Reads
from synthjax.protocol.spec import fields_of, to_json

Cuts = Mapping[str, Sequence[Sequence]]  # the values of each axis, in consecutive parts


def cut(spec: Any, count: int) -> dict[str, list[tuple]]:
    """Each axis in parts: at most `count` blocks, the largest of as few points as can be.

    Of several ways one of the fewest blocks, and with the earlier axes in the more parts: points
    that agree in those may share a first generator.
    """
    lengths = [len(values) for values in spec.sweep.values()]

    def ways(lengths: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
        if not lengths:
            yield ()
            return
        for parts in range(1, min(lengths[0], most) + 1):
            for rest in ways(lengths[1:], most // parts):
                yield (parts, *rest)

    def cost(parts: tuple[int, ...]) -> tuple:
        largest = math.prod(-(-n // k) for n, k in zip(lengths, parts, strict=True))
        return largest, math.prod(parts), [-k for k in parts]

    best = min(ways(lengths, count), key=cost)
    return {
        name: [values[i * len(values) // k : (i + 1) * len(values) // k] for i in range(k)]
        for (name, values), k in zip(spec.sweep.items(), best, strict=True)
    }


def blocks(spec: Any, cuts: Cuts, reads: Reads) -> list[Any]:
    """The spec of every block, in the order of the axes.

    What no point of a block reads is at its default there, and no axis: blocks that do not differ
    are equal. `reads` as for `elements`.
    """
    fields = fields_of(spec)
    kinds = [name for name, field in fields.items() if field.metadata.get("kinds")]
    found = []
    for parts in itertools.product(*cuts.values()):
        sweep = dict(zip(cuts, map(tuple, parts), strict=True))
        chosen = (sweep.get(name, (getattr(spec, name),)) for name in kinds)
        every = (dict(zip(kinds, one, strict=True)) for one in itertools.product(*chosen))
        read = set().union(*map(reads, every))
        values = {
            name: getattr(spec, name) if name in read else field.default
            for name, field in fields.items()
            if name != "sweep"
        }
        sweep = {name: axis for name, axis in sweep.items() if name in read}
        found.append(type(spec)(**values, sweep=sweep))
    return found


def merge(spec: Any, cuts: Cuts, results: Sequence[xr.Dataset]) -> xr.Dataset:
    """The results of a sweep, from those of its blocks in the order of `blocks`."""
    whole = []
    for parts, found in zip(itertools.product(*cuts.values()), results, strict=True):
        axes = dict(zip(cuts, map(list, parts), strict=True))
        found = found.expand_dims({name: axes[name] for name in cuts if name not in found.dims})
        for name in cuts:
            about = fields_of(spec)[name].metadata
            found[name].attrs = {"units": about["unit"], "long_name": about["doc"]}
        whole.append(found)
    for name in reversed(cuts):  # the last axis changes fastest
        size = len(cuts[name])
        join = functools.partial(
            xr.concat,
            dim=name,
            data_vars="minimal",
            coords="minimal",
            compat="equals",
            join="exact",
            combine_attrs=_together,
        )
        whole = [join(whole[i : i + size]) for i in range(0, len(whole), size)]
    (merged,) = whole
    # As a run of the whole orders it; without how the parts were stored, such as texts' lengths.
    merged = merged.transpose(*cuts, ...).drop_encoding()
    variables = {name: merged.variables[name] for name in results[0].data_vars}
    coordinates = {name: merged.variables[name] for name in dict.fromkeys([*cuts, *merged.coords])}
    return xr.Dataset(variables, coordinates, {"spec": to_json(spec)})


def _together(every: Sequence[Mapping[str, Any]], context: Any = None) -> dict[str, Any]:
    """Attributes of results that are joined; reasons why something is missing add up."""
    found = dict(every[0])
    reasons = [reason for one in every for reason in one.get("missing", "").split("; ") if reason]
    if reasons:
        found["missing"] = "; ".join(dict.fromkeys(reasons))
    return found
