"""What the benchmarks share: interleaved timing, peak memory, and the JSON lines they write."""

import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import synthjax
from synthjax.io.workdir import provenance

# JAX tells at length which accelerators are not there.
logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

RESULTS = Path(__file__).parent / "results"


def interleaved(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every side, run in turn A B C A B C …, after one uncounted turn each."""
    seconds = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: list[float], fast: list[float], work: float = 1.0) -> float:
    """Median over the turns of slow/fast; `work` is what slow did as a multiple of fast's."""
    return statistics.median(a / b / work for a, b in zip(slow, fast, strict=True))


def peak_memory(module: str, side: str) -> float:
    """MiB that a process of its own needs at most for `python -m module --side=side`."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
        "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", module, f"--side={side}"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(run.stdout.split()[-1]) / 1024


class Results:
    """A file of JSON lines under benchmarks/results/, each with versions, device and cores."""

    def __init__(self, name: str):
        RESULTS.mkdir(exist_ok=True)
        self._path = RESULTS / f"{name}.jsonl"
        self._facts = {**provenance(), "cores": synthjax.cores()}
        before = self._path.read_text().splitlines() if self._path.exists() else []
        device = self._facts["device"]
        self._lines = [line for line in before if json.loads(line)["device"] != device]

    def add(self, **values) -> None:
        """Print a line and keep it; the file holds one run for each sort of device."""
        print(json.dumps(values), flush=True)
        self._lines.append(json.dumps({**values, **self._facts}))
        self._path.write_text("\n".join(self._lines) + "\n")
