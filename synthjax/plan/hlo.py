"""Reads the text of a program's optimized HLO: its computations and their instructions."""

import dataclasses
import math
import re
from collections.abc import Mapping

WIDTH = {"pred": 1, "token": 0, "opaque": 0}  # bytes of what has no number of bits in its name

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
    def held(self) -> float:
        """Bytes, wherever they lie."""
        return self.size * _width(self.dtype)

    @property
    def nbytes(self) -> float:
        """Bytes, where they are traffic."""
        return 0 if self.near else self.held


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
    def held(self) -> float:
        """Bytes of the results, wherever they lie."""
        return sum(array.held for array in self.arrays)

    @property
    def nbytes(self) -> float:
        """Bytes of the results, where they are traffic."""
        return sum(array.nbytes for array in self.arrays)

    def called(self, role: str) -> str | None:
        """The computation that an attribute names."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.rest)
        return found and found[1]


Computation = Mapping[str, Instruction]  # by their names
Module = Mapping[str, Computation]  # by theirs


def parse(text: str) -> tuple[Module, str]:
    """The computations of a module, and the entry's name. Raises ValueError where it is no HLO."""
    module: dict[str, dict[str, Instruction]] = {}
    entry, inside = None, None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            inside = module.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            inside = None
        elif inside is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(*found.groups())
            inside[instruction.name] = instruction
    if entry is None:
        raise ValueError("no HLO: it has no ENTRY")
    return module, entry


def root(computation: Computation) -> Instruction:
    """The instruction whose results are the computation's."""
    return next(one for one in computation.values() if one.root)


def parameter(computation: Computation, number: int) -> Instruction:
    """The instruction that is a parameter of the computation."""
    wanted = "parameter", str(number)
    return next(one for one in computation.values() if (one.opcode, one.inside) == wanted)


def operands(computation: Computation, one: Instruction) -> list[Array]:
    """The arrays that an instruction takes, one operand's after another's."""
    there = (computation[name] for name in one.operands if name in computation)
    return [array for operand in there for array in operand.arrays]


def _instruction(leads, name, text) -> Instruction:
    text = re.sub(r"/\*.*?\*/", "", text)
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    kind, rest = text[:end], text[end:].lstrip()
    if not rest[:1].isalpha():  # a layout follows a tuple's parenthesis nowhere, but be sure
        rest = rest[rest.index(" ") + 1 :]
    start = rest.index("(")
    opcode, end = rest[:start], _closing(rest, start)
    inside = rest[start + 1 : end]
    return Instruction(
        name, opcode, _arrays(kind), (*_NAME.findall(inside),), inside, rest[end + 1 :], bool(leads)
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
