"""How often a loop of a program runs: as XLA says, or as its condition compares a counter."""

import re
from collections.abc import Iterator

from synthjax.plan.hlo import Computation, Instruction, Module, root


def trips(module: Module, computation: Computation, loop: Instruction) -> tuple[int | None, bool]:
    """How often a loop runs, None where nothing says; and whether it cannot end before."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
        return int(known[1]), True
    condition = module[loop.called("condition")]
    decides = root(condition)
    bounds = [*_bounds(module, condition, decides)]
    if not bounds:
        return None, False
    at, limit = min(bounds, key=lambda bound: bound[1])
    start = _value(computation, _carried(computation, loop.operands[0], at)) or 0
    step = _step(module[loop.called("body")], at)
    while decides.opcode == "fusion":
        decides = root(module[decides.called("calls")])
    return max(0, -((start - limit) // step)), decides.opcode == "compare"


def _step(body: Computation, at: int) -> int:
    """By how much a part of a loop's state grows in a round; XLA may do several at a time."""
    state = root(body)
    one = body.get(state.operands[at]) if state.opcode == "tuple" else None
    while one is not None and one.opcode in ("copy", "bitcast"):
        one = body.get(one.operands[0])
    if one is None or one.opcode != "add":
        return 1
    return next((v for name in one.operands if (v := _value(body, name))), 1)


def _bounds(module: Module, condition: Computation, one: Instruction) -> Iterator[tuple[int, int]]:
    """What a condition compares with constants: which part of the loop's state, and with what.

    It holds only while all of these do.
    """
    if one.opcode == "and":
        for name in one.operands:
            yield from _bounds(module, condition, condition[name])
    elif one.opcode == "fusion" and one.arrays[0].dtype == "pred":
        inner = module[one.called("calls")]
        for number, limit in _bounds(module, inner, root(inner)):
            if number < 0:  # a constant of the fusion's own, or an operand of it
                continue
            yield from _compared(condition, one.operands[number], limit)
    elif one.opcode == "compare" and "direction=LT" in one.rest:
        counter, limit = one.operands
        if (value := _value(condition, limit)) is not None:
            yield from _compared(condition, counter, value)


def _compared(computation: Computation, name: str, limit: int) -> Iterator[tuple[int, int]]:
    """Which part of the loop's state this value is, if it is one, with its limit."""
    one = computation[name]
    while one.opcode in ("copy", "bitcast", "convert"):
        one = computation[one.operands[0]]
    if one.opcode == "get-tuple-element":
        yield int(re.search(r"index=(\d+)", one.rest)[1]), limit
    elif one.opcode == "parameter":
        yield int(one.inside), limit


def _carried(computation: Computation, name: str, at: int) -> str | None:
    """The name of a part of the state with which a loop begins."""
    one = computation.get(name)
    while one is not None and one.opcode in ("copy", "bitcast", "opt-barrier"):
        one = computation.get(one.operands[0])
    return one.operands[at] if one is not None and one.opcode == "tuple" else None


def _value(computation: Computation, name: str | None) -> int | None:
    """A constant's value."""
    one = computation.get(name) if name else None
    while one is not None and one.opcode in ("copy", "bitcast", "convert"):
        one = computation.get(one.operands[0])
    if one is not None and one.opcode == "constant" and re.fullmatch(r"-?\d+", one.inside):
        return int(one.inside)
    return None
