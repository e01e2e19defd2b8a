"""A sweep larger than one job: its grid in parts that a cluster runs side by side, and one result.

    python -m launch.sweep split --config=configs/NAME.py:VARIANT --jobs=64 --workdir=DIR
    python -m launch.sweep run --workdir=DIR --index=0      # and so on, each wherever you like
    python -m launch.sweep merge --workdir=DIR

NAME: mixture, eigen or summarize; a config file of your own says with --task what it is of. `split`
writes DIR/manifest.json, with the spec of every job. `run` runs the one of --index, or of the index
that SLURM's job array or Kubernetes's indexed job gives it, in DIR/jobs/INDEX, and goes on there
where it was interrupted. `merge` writes DIR/results.nc and DIR/figures, as one run of the whole
does. docs/cluster.md has the commands of clusters.
"""

import importlib
import json
import math
import os
import shlex
import sys

from absl import flags

from launch.task import (
    ERRORS,
    TASKS,
    Launcher,
    asked_task,
    define_processes,
    define_workdir,
    folder_of,
)
from synthjax.io import processes, storage
from synthjax.io.results import read, write
from synthjax.io.storage import Place
from synthjax.io.workdir import WorkdirError, provenance
from synthjax.protocol.elements import elements, first_of
from synthjax.protocol.flags import define_config, fail, launch, specs
from synthjax.protocol.spec import fields_of, from_json, to_json
from synthjax.protocol.split import blocks, cut, merge

MANIFEST = "manifest.json"
INDEX = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")  # where clusters say which job this is


def launcher_of(task: str) -> Launcher:
    """What `launch.TASK` does."""
    return importlib.import_module(f"launch.{task}").LAUNCHER


_SPEC = launcher_of(asked_task()).task.Spec
_CONFIG = define_config(_SPEC)
_WORKDIR = define_workdir()
_TASK = flags.DEFINE_enum(
    "task", None, TASKS, "split: what the config is of; by default the name of its file."
)
_JOBS = flags.DEFINE_integer("jobs", None, "split: how many jobs to make at most.", lower_bound=1)
_INDEX = flags.DEFINE_integer(
    "index", None, f"run: which job, from 0 on; by default {' or '.join(INDEX)}.", lower_bound=0
)
_TOGETHER = define_processes()


def main(command: str) -> None:
    """Do what the command says."""
    if _WORKDIR.value is None:
        fail("needs --workdir=DIR (--help says more)")
    folder = folder_of(_WORKDIR)
    if command == "split":
        if _CONFIG.value is None or _JOBS.value is None:
            fail("split needs --config=configs/NAME.py:VARIANT and --jobs=N (--help says more)")
        return _split(folder)
    for flag in (_CONFIG, _TASK, _JOBS):
        if flag.value is not None:
            fail(f"{command} takes no --{flag.name}: {folder / MANIFEST} says it")
    manifest = _manifest(folder)
    launcher = launcher_of(manifest["task"])
    try:
        flags.FLAGS["config"].parser.parse(manifest["config"])  # it may register parts of its own
    except ValueError as error:
        fail(f"{folder / MANIFEST}: its config {manifest['config']}: {error}")
    if command == "run":
        index = _index(len(manifest["jobs"]))
        spec = from_json(launcher.task.Spec, json.dumps(manifest["jobs"][index]["spec"]))
        again = ["launch.sweep", *sys.argv[1:]]
        again += [f"--index={index}"] if _INDEX.value is None else []
        parts = {_job(index): spec}
        _TOGETHER(lambda: launcher.run(parts, folder, again, draw=False), launcher.errors)
    else:
        _merge(folder, manifest, launcher)


def _split(folder: Place) -> None:
    """Write the manifest, and say how to run its jobs."""
    launcher = launcher_of(asked_task())
    parts, reads = specs(_CONFIG, _SPEC), launcher.task.spec.reads
    if _JOBS.value < len(parts):
        names = ", ".join(parts)
        fail(f"--jobs={_JOBS.value}: must be at least {len(parts)}, one for each of {names}")
    points = {
        name: math.prod(len(axis) for axis in spec.sweep.values()) for name, spec in parts.items()
    }
    jobs, whole, firsts, shared = [], {}, 0, set()
    for name, spec in parts.items():
        spare = (_JOBS.value - len(parts)) * points[name] // sum(points.values())
        cuts = cut(spec, 1 + spare)
        made = blocks(spec, cuts, reads)
        different = list(dict.fromkeys(map(to_json, made)))
        numbers = [len(jobs) + different.index(to_json(block)) for block in made]
        jobs += [{"part": name, "spec": json.loads(text)} for text in different]
        whole[name] = {"spec": json.loads(to_json(spec)), "cuts": cuts, "jobs": numbers}
        if "start" in fields_of(spec):
            for text in different:
                block = from_json(_SPEC, text)
                trained = {first_of(p, spec.sweep, reads) for p in elements(block, reads)}
                firsts += len(trained)
                shared |= {(name, one) for one in trained}
    file = flags.FLAGS["config"].config_filename
    manifest = {"task": asked_task(), "config": file, "parts": whole, "jobs": jobs}
    _check_begun(folder, manifest)
    storage.make(folder)
    storage.write(folder / MANIFEST, json.dumps(manifest | provenance(), indent=1) + "\n")
    last = len(jobs) - 1
    print(f"{len(jobs)} jobs for {sum(points.values())} points of the grid: {folder / MANIFEST}")
    if firsts > len(shared):
        print(
            f"Each job trains its own first generator: {firsts} in all, where one run trains "
            f"{len(shared)}"
        )
    run = f"launch.sweep run --workdir={shlex.quote(str(folder))}"
    print(
        f"Run them (0 to {last}) in any order, here, or in a cluster (docs/cluster.md):\n"
        f"  python -m {run} --index=0\n"
        f"  sbatch --array=0-{last} --nodes=1 --ntasks-per-node=1 --gpus-per-node=1 "
        f"launch/cluster/slurm.sbatch {run}\n"
        f"  launch/cluster/gke.yaml with completions: {len(jobs)}\n"
        f"Then\n  python -m launch.sweep merge --workdir={shlex.quote(str(folder))}"
    )


def _check_begun(folder: Place, manifest: dict) -> None:
    """Raises WorkdirError where jobs have begun that are not those of this manifest."""
    jobs = folder / "jobs"
    if not any(storage.exists(jobs / name / "spec.json") for name in storage.names(jobs)):
        return
    held = [
        (one["task"], [(job["part"], job["spec"]["sweep"]) for job in one["jobs"]])
        for one in (_manifest(folder), json.loads(json.dumps(manifest)))
    ]
    if held[0] != held[1]:
        raise WorkdirError(
            f"workdir {folder}: has begun jobs of a sweep that was split otherwise; choose another"
        )


def _manifest(folder: Place) -> dict:
    """What `split` wrote."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(storage.read(path))
        if manifest["task"] in TASKS and manifest["jobs"] and manifest["parts"]:
            return manifest
    except FileNotFoundError:
        raise WorkdirError(f"{path}: is not there; begin with split") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise WorkdirError(f"{path}: is no manifest of a sweep")


def _index(count: int) -> int:
    """Which job this is, of so many."""
    # Under JobSet each host of a run has a number of that name.
    names = INDEX[:1] if flags.FLAGS.distributed else INDEX
    said = {name: os.environ[name] for name in names if name in os.environ}
    name, index = "--index", _INDEX.value
    if index is None:
        if not said:
            fail(f"run needs --index=I, or {' or '.join(names)}, which a cluster sets")
        name, index = next(iter(said.items()))
        if not index.isdecimal():
            fail(f"{name}={index}: must be an integer >= 0")
    if int(index) >= count:
        fail(f"{name}={index}: there are {count} jobs, from 0 on")
    return int(index)


def _job(index: int) -> str:
    """The folder of a job, in the workdir."""
    return f"jobs/{index}"


def _merge(folder: Place, manifest: dict, launcher: Launcher) -> None:
    """One results.nc from those of all jobs, and its figures."""
    found, missing = [], []
    for index, job in enumerate(manifest["jobs"]):
        path = folder / _job(index) / "results.nc"
        found.append(read(path) if storage.exists(path) else None)
        if found[-1] is None or json.loads(found[-1].attrs["spec"]) != job["spec"]:
            missing.append(index)
    if missing:
        fail(f"{len(missing)} of {len(found)} jobs are not done: {_ranges(missing)}")
    for part, about in manifest["parts"].items():
        spec = from_json(launcher.task.Spec, json.dumps(about["spec"]))
        results = merge(spec, about["cuts"], [found[index] for index in about["jobs"]])
        storage.make(folder / part)
        write(results, folder / part / "results.nc")
        launcher.show(results, folder / part)


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers as `sbatch --array` takes them: 1,4-6."""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


if __name__ == "__main__":
    commands = ("split", "run", "merge")
    launch(main, ERRORS, _SPEC, commands, processes.exit_code)
