"""What a compiled program does, read from its optimized HLO: work, traffic, collectives.

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as it runs (see
`plan.loops`).
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from synthjax.plan.hlo import Computation, Instruction, Module, operands, parameter, parse, root
from synthjax.plan.loops import trips

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Takes no time of its own, or is counted where it begins.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "add-dependency", "domain"}
# Calls that allocate, mark or wait, and compute nothing to speak of.
QUIET = {"AllocateBuffer", "AsyncCollectiveStart", "AsyncCollectiveDone", "ConcatBitcast"}
QUIET |= {"AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked", "Sharding"}
# Moves what there is, and computes nothing.
MOVES = {"copy", "broadcast", "reshape", "transpose", "slice", "concatenate", "pad", "reverse"}
MOVES |= {"dynamic-slice", "dynamic-update-slice", "gather", "scatter", "bitcast-convert"}
MOVES |= {
    "copy-start",
    "slice-start",
    "send",
    "recv",
    "infeed",
    "outfeed",
    "rng-bit-generator",
    "rng",
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """How often which collective runs, over groups of how many devices, on how many bytes.

    `nbytes` is of one: of what a device has afterwards, of a reduce-scatter of what it had before.
    """

    kind: str
    group: int
    nbytes: float
    count: float


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in one run of a program.

    Fields: `flops` of matrix products, two for a multiplication with its addition; `vector`,
    elements of all other arithmetic; `nbytes` read and written; `collectives`; `bounded`, loops
    that end by themselves, counted as often as they run at most; `unknown`, loops whose number
    nothing says, counted once; `opaque`, calls of which nothing is known, by their target.
    """

    flops: float = 0.0
    vector: float = 0.0
    nbytes: float = 0.0
    collectives: tuple[Collective, ...] = ()
    bounded: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(_fields(self), _fields(other), strict=True)))

    def times(self, count: float) -> "Work":
        """As often as that."""
        return dataclasses.replace(
            self,
            flops=self.flops * count,
            vector=self.vector * count,
            nbytes=self.nbytes * count,
            collectives=tuple(
                dataclasses.replace(one, count=one.count * count) for one in self.collectives
            ),
        )


def work(text: str) -> Work:
    """What the program with this optimized HLO does. Raises ValueError where it is none."""
    module, entry = parse(text)
    return _Reader(module).total(entry)


def _fields(work: Work) -> Iterator:
    return (getattr(work, field.name) for field in dataclasses.fields(work))


class _Reader:
    """Adds up what the computations of a module do."""

    def __init__(self, module: Module):
        self.module = module
        self.total = functools.cache(self._total)

    def _total(self, name: str) -> Work:
        """A computation whose instructions each read from memory and write to it."""
        computation, found = self.module[name], Work()
        for one in computation.values():
            found += self._one(computation, one)
        return found

    def _one(self, computation: Computation, one: Instruction) -> Work:
        kind = one.opcode.removesuffix("-start")
        if one.opcode in FREE or one.opcode.endswith(("-done", "-update")):
            return Work()
        if kind == "while":
            return self._loop(computation, one)
        if kind == "conditional":
            return max(
                (self.total(branch) for branch in _branches(one)),
                key=lambda work: (work.flops, work.nbytes),
            )
        if kind in ("call", "async"):
            return self.total(one.called("to_apply") or one.called("calls"))
        if kind in COLLECTIVES:
            return Work(collectives=(_collective(computation, one, kind),))
        if kind == "fusion":
            inner = self.module[one.called("calls")]
            found = Work(nbytes=self._fused_bytes(computation, one, inner))
            found += Work(collectives=_fused_collectives(one.called("calls"), inner))
            return found + self._arithmetic(inner)
        return _arithmetic(computation, one) + Work(nbytes=_bytes(computation, one))

    def _loop(self, computation: Computation, one: Instruction) -> Work:
        count, exact = trips(self.module, computation, one)
        body = self.total(one.called("body"))
        if count is None:
            return body + Work(unknown=(one.name,))
        return body.times(count) + Work(bounded=() if exact else (one.name,))

    def _arithmetic(self, computation: Computation) -> Work:
        """Of what is fused: it is computed, and no more."""
        found = Work()
        for one in computation.values():
            if one.opcode == "fusion":
                found += self._arithmetic(self.module[one.called("calls")])
            elif one.opcode in ("call", "async-start"):
                inner = one.called("to_apply") or one.called("calls")
                found += self._arithmetic(self.module[inner])
            else:
                found += _arithmetic(computation, one)
        return found

    def _fused_bytes(self, computation: Computation, one: Instruction, inner: Computation) -> float:
        """What a fusion reads and writes: of what it cuts pieces from or into, the pieces."""
        total = 0.0
        for number, name in enumerate(one.operands):
            if name in computation and (whole := computation[name].nbytes):
                total += min(whole, self._read(inner, parameter(inner, number), whole))
        made = root(inner)
        parts = [inner[name] for name in made.operands] if made.opcode == "tuple" else [made]
        if len(parts) != len(one.arrays):
            return total + one.nbytes
        return total + sum(
            min(array.nbytes, self._written(inner, part, array.nbytes))
            for array, part in zip(one.arrays, parts, strict=True)
        )

    def _read(self, inner: Computation, value: Instruction, whole: float) -> float:
        """Bytes that a fused computation reads of a value in memory, which has `whole`."""
        if value.root:  # and goes on from there
            return whole
        total = 0.0
        for one in inner.values():
            for place in (n for n, name in enumerate(one.operands) if name == value.name):
                if one.opcode == "bitcast":
                    total += self._read(inner, one, whole)
                elif one.opcode == "fusion":
                    called = self.module[one.called("calls")]
                    total += self._read(called, parameter(called, place), whole)
                elif one.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
                    total += one.held
                elif one.opcode != "dynamic-update-slice" or place != 0:
                    return whole
        return total

    def _written(self, inner: Computation, one: Instruction, whole: float) -> float:
        """Bytes that a fused computation writes of a result, which has `whole`."""
        if one.opcode == "bitcast":
            return self._written(inner, inner[one.operands[0]], whole)
        if one.opcode == "fusion" and len(one.arrays) == 1:
            called = self.module[one.called("calls")]
            return self._written(called, root(called), whole)
        return inner[one.operands[1]].held if one.opcode == "dynamic-update-slice" else whole


def _branches(one: Instruction) -> list[str]:
    if several := re.search(r"branch_computations=\{([^}]*)\}", one.rest):
        return [name.strip().lstrip("%") for name in several[1].split(",")]
    return [one.called("true_computation"), one.called("false_computation")]


def _bytes(computation: Computation, one: Instruction) -> float:
    """What an instruction reads and writes: of what it cuts pieces from or into, the pieces."""
    read = [array.nbytes for array in operands(computation, one)]
    if one.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * one.nbytes
    if one.opcode in ("dynamic-update-slice", "scatter") and len(read) > 1:
        return 2 * read[-1 if one.opcode == "scatter" else 1]
    if one.opcode == "copy-start":  # what is written, what is read, and a mark
        return one.arrays[0].nbytes + read[0]
    if one.opcode == "slice-start":  # what is read, what is written, and a mark
        source, piece, *_ = one.arrays
        return (not source.near) * piece.held + (not piece.near) * piece.held
    return one.nbytes + sum(read)


def _fused_collectives(name: str, inner: Computation) -> tuple[Collective, ...]:
    """TPUs hide collectives in fusions, and one that overlaps others in several of them.

    Such a one counts where it begins; where one ends or goes on, it is named again. A reduction
    of which each keeps a part is written as all-reduce and slice.
    """
    targets = " ".join(one.rest for one in inner.values() if one.opcode == "custom-call")
    if "AsyncCollectiveDone" in targets or name.startswith("async_collective_fusion"):
        return ()
    found = (
        _collective(inner, one, one.opcode) for one in inner.values() if one.opcode in COLLECTIVES
    )
    scatters = name.startswith("all-reduce-scatter")
    return tuple(
        dataclasses.replace(one, kind="reduce-scatter")
        if scatters and one.kind == "all-reduce"
        else one
        for one in found
    )


def _collective(computation: Computation, one: Instruction, kind: str) -> Collective:
    before, after = sum(array.held for array in operands(computation, one)), one.held
    if one.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        after -= before  # a pair of both
    return Collective(kind, _group(one.rest), before if kind == "reduce-scatter" else after, 1)


def _group(rest: str) -> int:
    """Devices of a group, in any of the ways in which XLA writes groups."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']*)'", found[2]))
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    if "source_target_pairs" in rest:
        return 2
    raise ValueError(f"no group of devices is known in {rest!r}")


def _arithmetic(computation: Computation, one: Instruction) -> Work:
    """What an instruction computes."""
    if one.opcode == "dot":
        return Work(flops=_dot(computation, one))
    if one.opcode == "convolution":
        return Work(flops=_convolution(computation, one))
    if one.opcode == "custom-call":
        return _custom(computation, one)
    if one.opcode not in FREE | MOVES and one.opcode not in COLLECTIVES:
        of = operands(computation, one) if one.opcode == "reduce" else one.arrays
        return Work(vector=max((array.size for array in of), default=0))
    return Work()


def _dot(computation: Computation, one: Instruction) -> float:
    left = computation[one.operands[0]].arrays[0]
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
    contracted = [left.shape[int(n)] for n in (dims[1] if dims else "").split(",") if n]
    return 2.0 * one.arrays[0].size * math.prod(contracted)


def _convolution(computation: Computation, one: Instruction) -> float:
    """Which is what TPUs make of a matrix product; batches of it may be windows."""
    left, right = (computation[name].arrays[0].shape for name in one.operands[:2])
    inputs, kernel, outputs = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest).groups()
    out = dict(zip(outputs, one.arrays[0].shape, strict=True))
    into, window = (dict(zip(a, b, strict=True)) for a, b in ((inputs, left), (kernel, right)))
    fields = {
        name: values.split("x")
        for name, values in re.findall(r"(\w+)=([\dx_]+)", _braced(one.rest, "window="))
    }
    total = 2.0 * out["b"] * out["f"] * window["i"]
    for at, axis in enumerate(sorted(axis for axis in kernel if axis.isdigit())):
        get = lambda name, default, at=at: fields[name][at] if name in fields else default  # noqa: E731
        stride, grown = int(get("stride", 1)), int(get("lhs_dilate", 1))
        spread = int(get("rhs_dilate", 1))
        low = int(get("pad", "0_0").split("_")[0])
        total *= _hits(into[axis], window[axis], out[axis], stride, grown, spread, low)
    return total


def _custom(computation: Computation, one: Instruction) -> Work:
    target = re.search(r'custom_call_target="([^"]*)"', one.rest)
    target = target[1] if target else "?"
    if re.search("gemm|matmul", target) and len(one.operands) > 1:
        dims = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.rest)
        numbers = re.findall(r"\d+", dims[1]) if dims else ["1"]
        left = computation[one.operands[0]].arrays[0].shape
        contracted = math.prod(left[int(n)] for n in numbers)
        return Work(flops=2.0 * one.arrays[0].size * contracted)
    if target in QUIET:
        return Work()
    return Work(opaque=(target,))


@functools.lru_cache(4096)
def _hits(size, window, out, stride, grown, spread, low) -> int:
    """At how many pairs of an output's and a window's place something of the input lies."""
    count = 0
    for at in range(out):
        for k in range(window):
            place = at * stride + k * spread - low
            count += place >= 0 and place % grown == 0 and place // grown < size
    return count


def _braced(text: str, before: str) -> str:
    found = re.search(re.escape(before) + r"\{([^}]*)\}", text)
    return found[1] if found else ""
