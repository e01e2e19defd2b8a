"""What a program costs one device: memory, work, and the time that this takes at least."""

import dataclasses
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from synthjax.plan.chips import CHIPS, Chip
from synthjax.plan.work import Collective, Work, work


class Program(NamedTuple):
    """A program to compile: its name, what lowers it, and what one run of it is for.

    Fields: `counts`, how much of what a run makes; `flops` that the model needs for that, two for
    each parameter that a token is multiplied with and six where it learns, 0 where there is no such
    number. Both over all devices. `runs` in a generation.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    counts: Mapping[str, float]
    flops: float = 0.0
    runs: int = 1


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run of a program on one of `devices` devices of a `kind`; bytes, FLOPs, seconds.

    Fields: what of memory holds `arguments`, `temporaries`, `outputs` that are no arguments and
    `code`; `limit`, what there is of memory, None where nobody says; `needed`, what the compiler
    says of a program that does not fit, 0 of others; `seconds` of compiling; `work`; `runs` in a
    generation.
    """

    name: str
    kind: str
    devices: int
    counts: Mapping[str, float]
    model_flops: float
    arguments: float
    temporaries: float
    outputs: float
    code: float
    limit: float | None
    needed: float
    seconds: float
    work: Work
    runs: int = 1

    @property
    def memory(self) -> float:
        """Bytes that a device must have."""
        return self.needed or self.arguments + self.temporaries + self.outputs + self.code

    @property
    def fits(self) -> bool:
        """Whether it has them, as far as anybody says."""
        return not self.needed and (self.limit is None or self.memory <= self.limit)

    @property
    def chip(self) -> Chip | None:
        """What the devices can do, where that is published."""
        return CHIPS.get(self.kind)

    @property
    def times(self) -> dict[str, float] | None:
        """Seconds that each takes at full speed."""
        if self.chip is None or self.needed:
            return None
        return {
            "products": self.work.flops / self.chip.flops,
            "vector": self.work.vector / self.chip.vector,
            "memory": self.work.nbytes / self.chip.bandwidth,
            "collectives": sum(_time(one, self.chip) for one in self.work.collectives),
        }

    @property
    def predicted(self) -> tuple[float, float] | None:
        """Seconds of a run: all of that at the same time, and one after another."""
        return self.times and (max(self.times.values()), sum(self.times.values()))

    @property
    def utilisation(self) -> tuple[float, float] | None:
        """Model FLOP utilisation, of both."""
        if not self.times or not self.model_flops:
            return None
        best = self.model_flops / self.devices / self.chip.flops
        return tuple(best / seconds for seconds in self.predicted)

    def collectives(self) -> dict[tuple[str, int], tuple[float, float]]:
        """By kind and devices of a group: how many, and bytes of all of them."""
        found = defaultdict(lambda: (0.0, 0.0))
        for one in self.work.collectives:
            count, size = found[one.kind, one.group]
            found[one.kind, one.group] = count + one.count, size + one.count * one.nbytes
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    def as_json(self) -> dict[str, Any]:
        """All of it, for a line of JSON."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "work"}
        work = self.work
        return own | {
            "memory": self.memory,
            "fits": self.fits,
            "flops": work.flops,
            "vector": work.vector,
            "bytes": work.nbytes,
            "collectives": [
                {"kind": kind, "group": group, "count": count, "bytes": size}
                for (kind, group), (count, size) in self.collectives().items()
            ],
            "times": self.times,
            "predicted": self.predicted,
            "utilisation": self.utilisation,
            "bounded": len(work.bounded),
            "unknown": work.unknown,
            "opaque": sorted(set(work.opaque)),
        }


def cost(program: Program, device: jax.Device, count: int) -> Cost:
    """Compile a program for `count` devices like this one and read what it does."""
    began = time.perf_counter()
    about = dict(
        name=program.name,
        kind=device.device_kind,
        devices=count,
        counts=dict(program.counts),
        model_flops=program.flops,
        runs=program.runs,
        limit=_limit(device),
    )
    lowered = program.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not (needed := _needed(str(error))):
            raise
        seconds = time.perf_counter() - began
        return Cost(
            **about, arguments=0, temporaries=0, outputs=0, code=0,
            needed=needed, seconds=seconds, work=Work(),
        )  # fmt: skip
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    return Cost(
        **about,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        needed=0,
        seconds=seconds,
        work=work(compiled.as_text()),
    )


def _limit(device: jax.Device) -> float | None:
    return CHIPS[device.device_kind].memory if device.device_kind in CHIPS else None


def _needed(text: str) -> float:
    """Bytes that XLA says a program would need, arguments and all; 0 where it says no such thing.

    "Used 28.5G of 15.75G hbm", or "required for HLO temporaries (54.00G) exceeds available HBM".
    """
    size = r"([\d.]+)([KMGT])i?B?"
    found = re.search(rf"Used {size} of [\d.]+[KMGT]i?B? hbm", text)
    found = found or re.search(rf"memory required[^(]*\({size}\) exceeds available HBM", text)
    return float(found[1]) * 2 ** (10 * ("KMGT".index(found[2]) + 1)) if found else 0.0


def _time(one: Collective, chip: Chip) -> float:
    """Seconds of a collective on a ring along one axis of the mesh."""
    share = (one.group - 1) / one.group
    if one.kind == "collective-permute":
        return one.count * one.nbytes / (chip.axis / 2)  # to one side
    times = 2 if one.kind == "all-reduce" else 1
    return one.count * times * share * one.nbytes / chip.axis
