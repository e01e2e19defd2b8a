"""A run's directory: it belongs to one spec, and says what made it."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from synthjax.io import storage
from synthjax.io.processes import agreed, others

PACKAGES = ("synthjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "xarray")

MOST = 5  # differences between two specs that an error names


class WorkdirError(RuntimeError):
    """A directory that cannot hold this run: names the path, the reason and the way out."""


class Workdir:
    """`path`, whose spec.json says what it was run with: `stages`, the first to the newest.

    A stage is a dict of a run's "spec", facts and provenance. The newest is the top level of
    spec.json, those before it its "earlier".
    """

    def __init__(
        self,
        path: str | os.PathLike,
        spec: Mapping[str, Any],
        free: tuple[str, ...] = (),
        goes_on: Callable[[Mapping, Mapping], bool] = lambda new, begun: False,
        facts: Callable[[Mapping | None], Mapping] = lambda begun: {},
    ):
        """Open `path` for a run of `spec`, JSON-able; another one may begin a stage of its own.

        Fields in `free` may change between the runs that share a stage. `goes_on` says whether a
        new spec holds all that the newest stage's has; `facts` gives what to record of a new stage,
        and is given the spec of the one before, if there was one. Raises WorkdirError where the
        directory cannot be written, or was begun with a spec that this one does not go on from, or
        processes that share the run came with several.
        """
        try:
            self.path = storage.place(path)
        except OSError as error:
            raise WorkdirError(f"workdir {path}: {error}") from None
        spec = json.loads(json.dumps(spec))
        if other := others(json.dumps(spec, sort_keys=True)):
            raise WorkdirError(
                f"workdir {self.path}: process {other[0]} came with another spec, data or model "
                "than process 0; all that share a run need the same"
            )
        self.stages = agreed(lambda: self._opened(spec, free, goes_on, facts))

    def _opened(self, spec, free, goes_on, facts) -> list[dict[str, Any]]:
        file = self.path / "spec.json"
        begun, differ, stages = None, [], []
        try:
            storage.make(self.path)
            if storage.exists(file):
                newest = json.loads(storage.read(file))
                stages = [*newest.pop("earlier", []), newest]
                begun = {**newest["spec"]}
                differ = [
                    f"{name}: {begun.get(name)!r} there, {spec.get(name)!r} here"
                    for name in {**begun, **spec}
                    if name not in free and begun.get(name) != spec.get(name)
                ]
            new = begun is None or bool(differ and goes_on(spec, begun))
            if new:
                stage = {"spec": spec, **facts(begun), **provenance()}
                earlier = {"earlier": stages} if stages else {}
                storage.write(file, json.dumps({**stage, **earlier}, indent=1) + "\n")
                stages.append(stage)
        except OSError as error:
            reason = error.strerror or error
            raise WorkdirError(f"workdir {self.path}: cannot be used ({reason})") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise WorkdirError(f"{file}: is no spec of a run; choose another workdir") from None
        if differ and not new:
            more = f"; and {len(differ) - MOST} more" if len(differ) > MOST else ""
            raise WorkdirError(
                f"workdir {self.path}: holds a run with another spec "
                f"({'; '.join(differ[:MOST])}{more}); "
                "choose another workdir"
            )
        return stages


def provenance() -> dict[str, Any]:
    """Versions, git commit, Python and device: what a number was made with."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    devices = jax.local_devices()
    return {
        "versions": versions,
        "python": platform.python_version(),
        "git_commit": commit,
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }
