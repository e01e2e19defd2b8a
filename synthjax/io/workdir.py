"""A run's directory: it belongs to one spec, and says what made it."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("synthjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "xarray")


class WorkdirError(RuntimeError):
    """A directory that cannot hold this run: names the path, the reason and the way out."""


class Workdir:
    """`path`, whose spec.json was written when the run began or is written now.

    `facts` are those recorded when the run began, whatever is given now.
    """

    def __init__(self, path: str | os.PathLike, spec: Mapping[str, Any], free: tuple, **facts):
        """Open `path` for a run of `spec`, JSON-able; `facts` (numbers, strings) go beside it.

        Fields in `free` may change between the runs that share a directory. Raises WorkdirError
        where the directory cannot be written, or was begun with another spec.
        """
        self.path = Path(path)
        file = self.path / "spec.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                content = {"spec": spec, **facts, **provenance()}
                write_text(file, json.dumps(content, indent=1) + "\n")
            content = json.loads(file.read_text())
            begun = {**content["spec"]}
            self.facts = {name: type(fact)(content[name]) for name, fact in facts.items()}
        except OSError as error:
            reason = error.strerror or error
            raise WorkdirError(f"workdir {self.path}: cannot be used ({reason})") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise WorkdirError(f"{file}: is no spec of a run; choose another workdir") from None
        spec = json.loads(json.dumps(spec))
        differ = [
            f"{name}: {begun.get(name)!r} there, {spec.get(name)!r} here"
            for name in {**begun, **spec}
            if name not in free and begun.get(name) != spec.get(name)
        ]
        if differ:
            raise WorkdirError(
                f"workdir {self.path}: holds a run with another spec ({'; '.join(differ)}); "
                "choose another workdir"
            )


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


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
