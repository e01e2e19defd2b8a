"""Whether a run that is killed or damaged still ends with the numbers of one that was not.

    python -m benchmarks.kill_soak

Kills: each launcher is killed (SIGKILL) again and again, after a time drawn evenly from what the
whole run takes, and started again in the same workdir; a run that ends is compared and the next one
begins in an empty workdir. `lost_s`: what a kill costs, the seconds from the last checkpoint that
was sealed, or from the start of the process where it had sealed none, to the kill.

Damage: in a finished workdir without its results each file of the newest checkpoint is deleted, cut
to half, zeroed or has one bit flipped; then the same command. `named`: a warning names the
checkpoint. `silent`: none does, and the results are right all the same. `wrong`: they are not.

Compared are results.nc and all of models/, byte for byte. Processes are forked from one that has
imported everything, so that kills strike work and not imports, and keep their compiled programs.
Exit code 1 where anything is not as it should be.
"""

import concurrent.futures
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from benchmarks.common import Results

_KILLS = flags.DEFINE_integer("kills", 24, "How often each launcher is killed.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments, and of the bits that are flipped.")

# Seconds of work each, in steps of hundredths of a second: several generations, elements, chunks.
SHARED = dict(learning_rate=0.01, batch=8, warmup=2, k=2, generator="sample", decode_batch=8)
SHARED |= dict(generations=2, steps=100, generation_steps=100, save_steps=10, log_steps=5, heads=2)
SIZES = {
    "mixture": dict(n=2000, d=20, trajectories=10, generations=2, verifier="linear")
    | {"learner": "ridge", "sweep.seed": tuple(range(40))},
    "eigen": SHARED
    | dict(size_min=2, size_max=2, encoding="P10", width=16, encoder_layers=1, n_real=1000)
    | {"n": 2000, "n_test": 100, "k_test": 2, "sweep.verifier": ("none", "oracle")},
    "summarize": SHARED
    | dict(width=16, kv_heads=1, layers=1, feed_forward=32, vocabulary=300, n_real=200)
    | {"block": 64, "summary_tokens": 16, "n": 200, "n_test": 50}
    | {"sweep.verifier": ("random", "oracle")},
}
CONFIGS = {"mixture": "base", "eigen": "demo", "summarize": "demo"}
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "delete": lambda content, rng: None,
    "truncate": lambda content, rng: content[: len(content) // 2],
    "zero": lambda content, rng: bytes(len(content)),
    "flip": lambda content, rng: _flipped(content, rng),
}
FORKS = multiprocessing.get_context("forkserver")


class Run:
    """A process that is `python -m launch.TASK` in a workdir."""

    def __init__(self, task: str, workdir: Path):
        overrides = [f"--config.{name}={value}" for name, value in SIZES[task].items()]
        argv = [f"launch.{task}", f"--config=configs/{task}.py:{CONFIGS[task]}", *overrides]
        argv.append(f"--workdir={workdir}")
        self.workdir, self._said = workdir, workdir.with_name(f"{workdir.name}.said")
        workdir.parent.mkdir(exist_ok=True)
        self.began = time.time()
        self.process = FORKS.Process(target=_become, args=(argv, self._said))
        self.process.start()

    def end(self, after: float | None = None) -> int:
        """The exit code; of a run that is killed after so many seconds, if it has not ended, −9."""
        self.process.join(after)
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.join()
        return self.process.exitcode

    @property
    def said(self) -> str:
        """What it wrote to standard output and error."""
        return self._said.read_text()

    def lost(self) -> float:
        """Seconds from the last seal to now."""
        seals = [path.stat().st_mtime for path in self.workdir.glob("checkpoints/**/manifest.json")]
        return time.time() - max([self.began, *seals])


def _become(argv: list[str], said: Path) -> None:
    for descriptor in (1, 2):
        os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND), descriptor)
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


def outcome(workdir: Path) -> dict[str, bytes]:
    """What a run is for: its results and models."""
    files = [workdir / "results.nc", *(workdir / "models").rglob("*")]
    return {str(f.relative_to(workdir)): f.read_bytes() for f in files if f.is_file()}


def kills(task: str, whole: Path, life: float, folder: Path, rng: random.Random) -> dict:
    """Kill one run after another."""
    wanted, lost, ended, identical, failed = outcome(whole), [], 0, 0, 0
    workdir = folder / "killed"
    while len(lost) < _KILLS.value or workdir.exists():
        run = Run(task, workdir)
        code = run.end(rng.uniform(0, life) if len(lost) < _KILLS.value else None)
        if code == -signal.SIGKILL:
            lost.append(run.lost())
            print(f"{task}: {len(lost)} kills, {ended} runs ended", end="\r", flush=True)
            continue
        failed += code != 0
        ended += 1
        identical += outcome(workdir) == wanted
        shutil.rmtree(workdir)
    return {
        "task": task,
        "kills": len(lost),
        "runs_ended": ended,
        "identical": identical,
        "failed": failed,
        "life_s": round(life, 1),
        "lost_s_median": round(statistics.median(lost), 2),
        "lost_s_max": round(max(lost), 2),
    }


def newest(whole: Path) -> Path:
    """The checkpoint that was sealed last."""
    seals = whole.glob("checkpoints/**/manifest.json")
    return max(seals, key=lambda path: path.stat().st_mtime_ns).parent.relative_to(whole)


def damaged(task: str, whole: Path, workdir: Path, file: Path, content: bytes | None) -> str:
    """What comes of a workdir with this instead of one file."""
    shutil.copytree(whole, workdir)
    (workdir / "results.nc").unlink()
    if content is None:
        (workdir / file).unlink()
    else:
        (workdir / file).write_bytes(content)
    run = Run(task, workdir)
    code = run.end()
    if code != 0:
        found = "failed"
    elif outcome(workdir) != outcome(whole):
        found = "wrong"
    else:
        found = "named" if str(newest(whole)) in run.said else "silent"
    shutil.rmtree(workdir)
    return found


def matrix(task: str, whole: Path, folder: Path, rng: random.Random) -> list[dict]:
    """Every file of the newest checkpoint, damaged in every way."""
    step = newest(whole)
    files = sorted(path for path in (whole / step).rglob("*") if path.is_file())
    asked = []
    for file in files:
        before = file.read_bytes()
        for damage, call in DAMAGES.items():
            if (content := call(before, rng)) != before:
                asked.append((damage, file.relative_to(whole), content))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = [
            pool.submit(damaged, task, whole, folder / f"damaged{i}", file, content)
            for i, (_, file, content) in enumerate(asked)
        ]
        for i, one in enumerate(found):
            one.result()
            print(f"{task}: {i + 1} of {len(found)} damages", end="\r", flush=True)
    lines = []
    for damage in DAMAGES:
        ends = [one.result() for one, about in zip(found, asked, strict=True) if about[0] == damage]
        counts = {end: ends.count(end) for end in ("named", "silent", "wrong", "failed")}
        lines.append({"task": task, "damage": damage, "files": len(ends), **counts})
    return lines


def _flipped(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    if found:
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def main(argv: list[str]) -> None:
    results, rng, bad = Results("kill_soak"), random.Random(_SEED.value), 0
    FORKS.set_forkserver_preload(
        ["synthjax.mixture", "synthjax.eigen", "synthjax.summarize", "synthjax.plot.figures"]
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/programs"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        for task in SIZES:
            for name in ("warm", "whole"):  # the second finds its programs compiled
                run = Run(task, Path(folder) / task / name)
                if run.end() != 0:
                    raise RuntimeError(run.said)
                life = time.time() - run.began
            found = kills(task, run.workdir, life, run.workdir.parent, rng)
            results.add(part="kills", **found)
            bad += found["failed"] + found["runs_ended"] - found["identical"]
            for line in matrix(task, run.workdir, run.workdir.parent, rng):
                results.add(part="damage", **line)
                bad += line["wrong"] + line["failed"]
    sys.exit(bool(bad))


if __name__ == "__main__":
    app.run(main)
