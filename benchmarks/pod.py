"""What the shipped presets cost on TPU slices, and what a chip does as a slice grows: without TPUs.

    make .venv-tpu/.synthjax-installed
    .venv-tpu/bin/python -m benchmarks.pod [--part=mixture|eigen|summarize|weak_scaling]

Compiles with libtpu for slices that nobody here has, as `launch.plan` does (docs/plan.md says what
the numbers are worth), writes benchmarks/results/pod_PART.jsonl and prints the tables of
docs/plan.md. Weak scaling: each chip has as much to do on 4096 as on 8, rows of a batch or
trajectories, and what it computes, reads and is sent should stay the same. All of it takes an hour
and more, the parts 20, 12, 20 and 18 minutes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags
from rich.console import Console

from benchmarks.common import Results
from configs import eigen, mixture, summarize
from synthjax.plan import topology
from synthjax.plan.report import planned

TASKS = {"mixture": mixture, "eigen": eigen, "summarize": summarize}
WEAK_SCALING = "weak_scaling"
_PART = flags.DEFINE_enum("part", None, [*TASKS, WEAK_SCALING], "Only this part.")

MADE_FOR = {  # presets that are for a slice of their own
    "mixture:million": ("v5e:16x16",),
    "eigen:paper": ("v5e:4x4",),
    "summarize:smollm2": ("v5e:2x4",),
    "summarize:llama2_7b_node": ("v5p:2x2x2",),
    "summarize:llama2_7b": ("v5p:4x4x4", "v5e:16x16"),
}
SMALLEST = "v5e:2x2"  # for all the others
SLICES = ("v5p:2x2x2", "v5p:4x4x4", "v5p:4x8x8", "v5p:8x8x16", "v5p:16x16x16")


def sweep(chips: int) -> Any:
    """4000 trajectories a chip."""
    return dataclasses.replace(mixture.million(), trajectories=4 * chips)


def data_parallel(chips: int) -> Any:
    """The eigenvalues' transformer, 16 examples a chip, as `paper` has on 16 chips."""
    return dataclasses.replace(eigen.paper(), batch=16 * chips, decode_batch=256 * chips)


def sharded(chips: int) -> Any:
    """SmolLM2, a row of the batch for two chips of eight that share its parameters."""
    batches = dict(batch=4 * chips, decode_batch=32 * chips)
    mesh = {"data": -1, "fsdp": 8, "tensor": 1}
    return dataclasses.replace(summarize.smollm2(), **batches, mesh=mesh)


WEAK: dict[str, Callable[[int], Any]] = {
    "mixture: 4000 trajectories a chip": sweep,
    "eigenvalues, data parallel: 16 examples a chip": data_parallel,
    "SmolLM2-135M, data × fsdp 8: 4 rows a chip": sharded,
}


def main(argv: list[str]) -> None:
    topology.devices(SLICES[0])  # first of all: here JAX is told to look for no TPU
    console = Console(width=120)
    for part in [_PART.value] if _PART.value else [*TASKS, WEAK_SCALING]:
        results = Results(f"pod_{part}")
        if part == WEAK_SCALING:
            weak_scaling(results, console)
        else:
            compile_presets(part, results, console)


def compile_presets(task: str, results: Results, console: Console) -> None:
    own, others = [], []
    for name, spec in presets(task):
        for where in MADE_FOR.get(name, [SMALLEST]):
            lines = [
                {"preset": name, "topology": where, **line}
                for line in planned(spec, where, False, console)
            ]
            for line in lines:
                results.add(**line)
            if name in MADE_FOR:
                own += lines
            else:
                others.append(lines)
    table(own, ("preset", "topology", "mesh", "program"), PLAN)
    table([together(lines) for lines in others], ("preset", "topology", "programs"), SMALL)


def weak_scaling(results: Results, console: Console) -> None:
    found = []
    for name, spec_of in WEAK.items():
        for where in SLICES:
            spec = spec_of(len(topology.devices(where)))
            for line in planned(spec, where, False, console):
                found.append({"what": name, "topology": where, **line})
                results.add(**found[-1])
    found.sort(key=lambda line: (line["what"], line["name"]))  # stable: by chips within
    table(found, ("what", "program", "devices"), SCALING)


PLAN = {
    "memory": lambda one: f"{one['memory'] / 2**30:.2g} of {one['limit'] / 2**30:.0f} GiB",
    "FLOP a chip": lambda one: _number(one["flops"] + one["vector"]),
    "bytes read, written": lambda one: _number(one["bytes"]),
    "bytes of collectives": lambda one: _number(_sent(one)),
    "predicted seconds": lambda one: "{:.3g} to {:.3g}".format(*one["predicted"]),
    "a second, all chips": lambda one: _a_second(one),
    "MFU": lambda one: " to ".join(f"{share:.0%}" for share in (one["utilisation"] or ())[::-1]),
    "compiled in": lambda one: f"{one['seconds']:.0f} s",
}
SMALL = {name: PLAN[name] for name in ("memory", "FLOP a chip", "compiled in")}
SCALING = {name: PLAN[name] for name in list(PLAN)[1:5]}


def presets(task: str) -> Iterator[tuple[str, Any]]:
    """Every variant of a task's configs, each of its parts by itself, and its name."""
    for variant, make in TASKS[task].VARIANTS.items():
        spec = make()
        parts = spec if isinstance(spec, dict) else {"": spec}
        for part, one in parts.items():
            yield f"{task}:{variant}{part and f'/{part}'}", one


def together(lines: Sequence[dict]) -> dict:
    """A preset in a line: its largest program, and what all took to compile."""
    largest = max(lines, key=lambda line: line["memory"])
    fits, seconds = all(line["fits"] for line in lines), sum(line["seconds"] for line in lines)
    return {**largest, "fits": fits, "seconds": seconds, "programs": len(lines)}


def table(lines: Sequence[dict], about: Sequence[str], columns: dict[str, Callable]) -> None:
    """Markdown."""
    print("|", " | ".join((*about, *columns)), "|")
    print("|" + "---|" * (len(about) + len(columns)))
    for line in lines:
        line = line | {"program": line["name"], "mesh": _mesh(line["mesh"])}
        cells = [str(line[name]) for name in about]
        cells += [call(line) if line["fits"] else "-" for call in columns.values()]
        print("|", " | ".join(cells), "|")


def _sent(one: dict) -> float:
    return sum(collective["bytes"] for collective in one["collectives"])


def _mesh(mesh: dict | None) -> str:
    return " × ".join(str(size) for size in mesh.values()) if mesh else ""


def _a_second(one: dict) -> str:
    unit, count = next(iter(one["counts"].items()))
    return "{1} to {0} {unit}".format(*(_number(count / s) for s in one["predicted"]), unit=unit)


def _number(value: float) -> str:
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {unit}"
    return f"{value:.3g}"


if __name__ == "__main__":
    app.run(main)
