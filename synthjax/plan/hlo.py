"""What a compiled program does, read from its optimized HLO: work, traffic, collectives.

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as it runs: so
often as XLA says, or as the loop's condition says where it compares a counter with a constant.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

WIDTH = {"pred": 1, "token": 0, "opaque": 0}  # bytes of what has no number of bits in its name
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

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """A dtype and a shape; `near`: in a memory of the chip's own, which costs no traffic."""

    dtype: str
    shape: tuple[int, ...]
    near: bool = False

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> float:
        """Bytes, where they are traffic."""
        return 0 if self.near else self.size * _width(self.dtype)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`arrays` are its results, `operands` names of the same computation, `rest` attributes."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    inside: str
    rest: str
    root: bool

    @property
    def nbytes(self) -> float:
        """Bytes of the results, where they are traffic."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def size(self) -> float:
        """Bytes of the results, wherever they lie."""
        return sum(array.size * _width(array.dtype) for array in self.arrays)

    def called(self, role: str) -> str | None:
        """The computation that an attribute names."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.rest)
        return found and found[1]


Computation = dict[str, Instruction]


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
    computations, entry = parse(text)
    if entry is None:
        raise ValueError("no HLO: it has no ENTRY")
    return _Reader(computations).total(entry)


def parse(text: str) -> tuple[dict[str, Computation], str | None]:
    """The computations of a module by their names, and the entry's name."""
    computations: dict[str, Computation] = {}
    entry, inside = None, None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            inside = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            inside = None
        elif inside is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(*found.groups())
            inside[instruction.name] = instruction
    return computations, entry


def _instruction(root, name, text) -> Instruction:
    text = re.sub(r"/\*.*?\*/", "", text)
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    kind, rest = text[:end], text[end:].lstrip()
    if not rest[:1].isalpha():  # a layout follows a tuple's parenthesis nowhere, but be sure
        rest = rest[rest.index(" ") + 1 :]
    start = rest.index("(")
    opcode, end = rest[:start], _closing(rest, start)
    inside = rest[start + 1 : end]
    return Instruction(
        name, opcode, _arrays(kind), (*_NAME.findall(inside),), inside, rest[end + 1 :], bool(root)
    )


def _closing(text: str, at: int) -> int:
    """Where the parenthesis that opens at `at` closes."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, at):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    raise ValueError(f"no HLO: a parenthesis stays open in {text[:80]!r}")


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(int(n) for n in shape.split(",") if n), "S(1)" in (layout or ""))
        for dtype, shape, layout in _ARRAY.findall(text)
    )


def _width(dtype: str) -> float:
    if dtype in WIDTH:
        return WIDTH[dtype]
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else 0


def _fields(work: Work) -> Iterator:
    return (getattr(work, field.name) for field in dataclasses.fields(work))


class _Reader:
    """Adds up what the computations of a module do."""

    def __init__(self, computations: Mapping[str, Computation]):
        self.computations = computations
        self.total = functools.cache(self._total)

    def _total(self, name: str) -> Work:
        """A computation whose instructions each read from memory and write to it."""
        computation, found = self.computations[name], Work()
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
                (self.total(branch) for branch in self._branches(one)),
                key=lambda work: (work.flops, work.nbytes),
            )
        if kind in ("call", "async"):
            return self.total(one.called("to_apply") or one.called("calls"))
        if kind in COLLECTIVES:
            return Work(collectives=(self._collective(computation, one, kind),))
        if kind == "fusion":
            inner = self.computations[one.called("calls")]
            found = Work(nbytes=self._fused_bytes(computation, one, inner))
            found += Work(collectives=self._fused_collectives(one.called("calls"), inner))
            return found + self._arithmetic(inner)
        return self._single(computation, one) + Work(nbytes=self._bytes(computation, one))

    def _bytes(self, computation: Computation, one: Instruction) -> float:
        """What an instruction reads and writes: of what it cuts pieces from or into, the pieces."""
        operands = self._operand_bytes(computation, one)
        if one.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * one.nbytes
        if one.opcode in ("dynamic-update-slice", "scatter") and len(operands) > 1:
            return 2 * operands[-1 if one.opcode == "scatter" else 1]
        if one.opcode == "copy-start":  # what is written, what is read, and a mark
            return one.arrays[0].nbytes + operands[0]
        if one.opcode == "slice-start":  # what is read, what is written, and a mark
            read, written, *_ = one.arrays
            size = written.size * _width(written.dtype)
            return (not read.near) * size + (not written.near) * size
        return one.nbytes + sum(operands)

    def _fused_collectives(self, name: str, inner: Computation) -> tuple[Collective, ...]:
        """TPUs hide collectives in fusions, and one that overlaps others in several of them.

        Such a one counts where it begins; where one ends or goes on, it is named again. A reduction
        of which each keeps a part is written as all-reduce and slice.
        """
        targets = " ".join(one.rest for one in inner.values() if one.opcode == "custom-call")
        if "AsyncCollectiveDone" in targets or name.startswith("async_collective_fusion"):
            return ()
        found = (
            self._collective(inner, one, one.opcode)
            for one in inner.values()
            if one.opcode in COLLECTIVES
        )
        scatters = name.startswith("all-reduce-scatter")
        return tuple(
            dataclasses.replace(one, kind="reduce-scatter")
            if scatters and one.kind == "all-reduce"
            else one
            for one in found
        )

    def _arithmetic(self, computation: Computation) -> Work:
        """Of what is fused: it is computed, and no more."""
        found = Work()
        for one in computation.values():
            if one.opcode == "fusion":
                found += self._arithmetic(self.computations[one.called("calls")])
            elif one.opcode in ("call", "async-start"):
                inner = one.called("to_apply") or one.called("calls")
                found += self._arithmetic(self.computations[inner])
            else:
                found += self._single(computation, one)
        return found

    def _single(self, computation: Computation, one: Instruction) -> Work:
        if one.opcode == "dot":
            return Work(flops=self._dot(computation, one))
        if one.opcode == "convolution":
            return Work(flops=self._convolution(computation, one))
        if one.opcode == "custom-call":
            return self._custom(computation, one)
        if one.opcode not in FREE | MOVES and one.opcode not in COLLECTIVES:
            of = self._operands(computation, one) if one.opcode == "reduce" else one.arrays
            return Work(vector=max((array.size for array in of), default=0))
        return Work()

    def _operands(self, computation: Computation, one: Instruction) -> list[Array]:
        return [
            array
            for name in one.operands
            if name in computation
            for array in computation[name].arrays
        ]

    def _operand_bytes(self, computation: Computation, one: Instruction) -> list[float]:
        return [array.nbytes for array in self._operands(computation, one)]

    def _fused_bytes(self, computation: Computation, one: Instruction, inner: Computation) -> float:
        """What a fusion reads and writes: of what it cuts pieces from or into, the pieces."""
        own = {int(i.inside): i.name for i in inner.values() if i.opcode == "parameter"}
        total = 0.0
        for number, name in enumerate(one.operands):
            if name in computation and (whole := computation[name].nbytes):
                total += min(whole, self._read(inner, own[number], whole))
        root = next(i for i in inner.values() if i.root)
        parts = [inner[n] for n in root.operands] if root.opcode == "tuple" else [root]
        if len(parts) != len(one.arrays):
            return total + one.nbytes
        return total + sum(
            min(array.nbytes, self._written(inner, part, array.nbytes))
            for array, part in zip(one.arrays, parts, strict=True)
        )

    def _read(self, inner: Computation, name: str, whole: float) -> float:
        """Bytes that a fused computation reads of a value in memory, which has `whole`."""
        if inner[name].root:  # and goes on from there
            return whole
        total = 0.0
        for one in inner.values():
            for place in (n for n, operand in enumerate(one.operands) if operand == name):
                if one.opcode == "bitcast":
                    total += self._read(inner, one.name, whole)
                elif one.opcode == "fusion":
                    called = self.computations[one.called("calls")]
                    number = str(place)
                    own = next(
                        i for i in called.values() if (i.opcode, i.inside) == ("parameter", number)
                    )
                    total += self._read(called, own.name, whole)
                elif one.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
                    total += one.size
                elif one.opcode != "dynamic-update-slice" or place != 0:
                    return whole
        return total

    def _written(self, inner: Computation, one: Instruction, whole: float) -> float:
        """Bytes that a fused computation writes of a result, which has `whole`."""
        if one.opcode == "bitcast":
            return self._written(inner, inner[one.operands[0]], whole)
        if one.opcode == "fusion" and len(one.arrays) == 1:
            called = self.computations[one.called("calls")]
            return self._written(called, next(i for i in called.values() if i.root), whole)
        return inner[one.operands[1]].size if one.opcode == "dynamic-update-slice" else whole

    def _loop(self, computation: Computation, one: Instruction) -> Work:
        count, exact = self._trips(computation, one)
        body = self.total(one.called("body"))
        if count is None:
            return body + Work(unknown=(one.name,))
        return body.times(count) + Work(bounded=() if exact else (one.name,))

    def _trips(self, computation: Computation, one: Instruction) -> tuple[int | None, bool]:
        """How often a loop runs, and whether it cannot end before."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', one.rest):
            return int(known[1]), True
        condition = self.computations[one.called("condition")]
        root = next(i for i in condition.values() if i.root)
        bounds = [*self._bounds(condition, root)]
        if not bounds:
            return None, False
        at, limit = min(bounds, key=lambda bound: bound[1])
        start = self._value(computation, self._carried(computation, one.operands[0], at)) or 0
        step = self._step(self.computations[one.called("body")], at)
        while root.opcode == "fusion":
            inner = self.computations[root.called("calls")]
            root = next(i for i in inner.values() if i.root)
        return max(0, -((start - limit) // step)), root.opcode == "compare"

    def _step(self, body: Computation, at: int) -> int:
        """By how much a part of a loop's state grows in a round; XLA may do several at a time."""
        root = next(i for i in body.values() if i.root)
        one = body.get(root.operands[at]) if root.opcode == "tuple" else None
        while one is not None and one.opcode in ("copy", "bitcast"):
            one = body.get(one.operands[0])
        if one is None or one.opcode != "add":
            return 1
        return next((v for name in one.operands if (v := self._value(body, name))), 1)

    def _bounds(self, condition: Computation, one: Instruction) -> Iterator[tuple[int, int]]:
        """What a condition compares with constants: which part of the loop's state, and with what.

        It holds only while all of these do.
        """
        if one.opcode == "and":
            for name in one.operands:
                yield from self._bounds(condition, condition[name])
        elif one.opcode == "fusion" and one.arrays[0].dtype == "pred":
            inner = self.computations[one.called("calls")]
            root = next(i for i in inner.values() if i.root)
            for number, limit in self._bounds(inner, root):
                if number < 0:  # a constant of the fusion's own, or an operand of it
                    continue
                yield from self._compared(condition, one.operands[number], limit)
        elif one.opcode == "compare" and "direction=LT" in one.rest:
            counter, limit = one.operands
            if (value := self._value(condition, limit)) is not None:
                yield from self._compared(condition, counter, value)

    def _compared(self, computation: Computation, name: str, limit: int):
        one = computation[name]
        while one.opcode in ("copy", "bitcast", "convert"):
            one = computation[one.operands[0]]
        if one.opcode == "get-tuple-element":
            yield int(re.search(r"index=(\d+)", one.rest)[1]), limit
        elif one.opcode == "parameter":
            yield int(one.inside), limit

    def _carried(self, computation: Computation, name: str, at: int) -> str | None:
        one = computation.get(name)
        while one is not None and one.opcode in ("copy", "bitcast", "opt-barrier"):
            one = computation.get(one.operands[0])
        return one.operands[at] if one is not None and one.opcode == "tuple" else None

    def _value(self, computation: Computation, name: str | None) -> int | None:
        """A constant's value."""
        one = computation.get(name) if name else None
        while one is not None and one.opcode in ("copy", "bitcast", "convert"):
            one = computation.get(one.operands[0])
        if one is not None and one.opcode == "constant" and re.fullmatch(r"-?\d+", one.inside):
            return int(one.inside)
        return None

    def _branches(self, one: Instruction) -> list[str]:
        if several := re.search(r"branch_computations=\{([^}]*)\}", one.rest):
            return [name.strip().lstrip("%") for name in several[1].split(",")]
        return [one.called("true_computation"), one.called("false_computation")]

    def _collective(self, computation: Computation, one: Instruction, kind: str) -> Collective:
        results = one.size
        operands = sum(
            array.size * _width(array.dtype) for array in self._operands(computation, one)
        )
        if one.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
            results -= operands  # a pair of both
        size = operands if kind == "reduce-scatter" else results
        return Collective(kind, _group(one.rest), size, 1)

    def _dot(self, computation: Computation, one: Instruction) -> float:
        left = computation[one.operands[0]].arrays[0]
        dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        contracted = [left.shape[int(n)] for n in (dims[1] if dims else "").split(",") if n]
        return 2.0 * one.arrays[0].size * math.prod(contracted)

    def _convolution(self, computation: Computation, one: Instruction) -> float:
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

    def _custom(self, computation: Computation, one: Instruction) -> Work:
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


def _group(rest: str) -> int:
    """Devices of a group, in any of the ways in which XLA writes groups."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']*)'", found[2]))
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    return 2  # pairs
