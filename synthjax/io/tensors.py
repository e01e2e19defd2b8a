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

from synthjax.io.workdir import WorkdirError, write_text

TENSORS, CONFIG = "model.safetensors", "config.json"
CONFIG_BYTES = 2**20


class ModelError(ValueError):
    """A folder that holds no model to be used here; one line: the path and the reason."""


def write(folder: Path, params: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write nested dicts of arrays, whose names are joined by dots, and what they belong to.

    Raises WorkdirError where the disk does not take it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{TENSORS}.partial"
        partial.write_bytes(save(_flat(params)))
        partial.replace(folder / TENSORS)
        write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    except OSError as error:
        raise WorkdirError(f"{folder}: cannot be written ({error.strerror or error})") from None


def read(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters as nested dicts of NumPy arrays, and the config.

    Raises ModelError where a file is missing, is no plain file or not what it should be.
    """
    folder = Path(folder)
    for name in (TENSORS, CONFIG):
        try:
            status = (folder / name).lstat()
        except OSError as error:
            raise ModelError(f"{folder / name}: cannot be read ({error.strerror})") from None
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{folder / name}: is not a plain file")
        if name == CONFIG and status.st_size > CONFIG_BYTES:
            raise ModelError(f"{folder / name}: has {status.st_size} bytes, over {CONFIG_BYTES}")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / CONFIG}: is no JSON object")
    try:
        flat = load_file(folder / TENSORS)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f"{folder / TENSORS}: {' '.join(str(error).split())}") from None
    return _nested(flat, folder), config


def _flat(params: Mapping[str, Any], before: str = "") -> dict[str, np.ndarray]:
    found = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = np.ascontiguousarray(value)
    return found


def _nested(flat: Mapping[str, np.ndarray], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        inside = found
        for parent in parents:
            inside = inside.setdefault(parent, {})
            if not isinstance(inside, dict):
                break
        if not isinstance(inside, dict) or name in inside:
            raise ModelError(f"{folder / TENSORS}: {path!r} is a part of another tensor's name")
        inside[name] = value
    return found
