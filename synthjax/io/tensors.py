"""A model as a folder of two files that anything may read: model.safetensors and config.json."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import load_file, save

from synthjax.io import storage
from synthjax.io.storage import Place
from synthjax.io.workdir import WorkdirError

TENSORS, CONFIG = "model.safetensors", "config.json"
CONFIG_BYTES = 2**20


class ModelError(ValueError):
    """A folder that holds no model to be used here; one line: the path and the reason."""


def write(folder: Place, params: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write nested dicts of arrays, whose names are joined by dots, and what they belong to.

    Raises WorkdirError where the disk does not take it.
    """
    try:
        storage.make(folder)
        storage.write(folder / TENSORS, save(flat(params)))
        storage.write(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    except OSError as error:
        raise WorkdirError(f"{folder}: cannot be written ({error.strerror or error})") from None


def read(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters as nested dicts of NumPy arrays, and the config.

    Raises ModelError where a file is missing, is no plain file or not what it should be.
    """
    folder = Path(folder)
    check_plain(folder / TENSORS)
    config = json_object(folder / CONFIG)
    try:
        found = load_file(folder / TENSORS)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f"{folder / TENSORS}: {' '.join(str(error).split())}") from None
    return nested(found, folder / TENSORS), config


def check_plain(path: Path) -> int:
    """The bytes of a file that is there and is no link, folder or pipe; or ModelError.

    A link inside one download of Hugging Face's cache is taken for what it leads to.
    """
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) and _cached(path):
            status = path.stat()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path}: is not a plain file")
    return status.st_size


def _cached(link: Path) -> bool:
    """Whether it leads from models--NAME/snapshots/REVISION to a file of models--NAME/blobs."""
    for revision in Path(os.path.realpath(link.parent), link.name).parents:
        download = revision.parent.parent
        if revision.parent.name == "snapshots" and download.name.startswith("models--"):
            return Path(os.path.realpath(link)).parent == download / "blobs"
    return False


def json_object(path: Path, most: int = CONFIG_BYTES) -> dict[str, Any]:
    """The JSON object in a plain file of up to `most` bytes; or ModelError."""
    if (size := check_plain(path)) > most:
        raise ModelError(f"{path}: has {size} bytes, over {most}")
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: is no JSON object")
    return found


def flat(params: Mapping[str, Any], before: str = "") -> dict[str, np.ndarray]:
    """Nested dicts as one, names joined by dots."""
    found = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[before + name] = np.ascontiguousarray(value)
    return found


def nested(flat: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """One dict as nested ones; ModelError, which names the file, where names contradict."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        inside = found
        for parent in parents:
            inside = inside.setdefault(parent, {})
            if not isinstance(inside, dict):
                break
        if not isinstance(inside, dict) or name in inside:
            raise ModelError(f"{file}: {path!r} is a part of another tensor's name")
        inside[name] = value
    return found
