"""Folders of models in Hugging Face's layout: config.json and safetensors, in one file or shards.

Nothing in such a folder is ever executed, and nothing outside of it is read: no pickle, no
path in an index that leads elsewhere, no link but those inside a download of Hugging Face's cache.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from safetensors.numpy import save_file

from synthjax.io import storage
from synthjax.io.tensors import CONFIG, TENSORS, ModelError, check_plain, json_object
from synthjax.io.workdir import WorkdirError

INDEX = TENSORS + ".index.json"
INDEX_BYTES = 2**26
SHARD_BYTES = 5 * 10**9
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".npy")
_FILE = re.compile(r"[\w.-]+\.safetensors")
_WRITTEN = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


class Tensor(NamedTuple):
    """Where a tensor is, and what the header says of it; `dtype` in safetensors' words."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def tensors_of(folder: str | os.PathLike) -> dict[str, Tensor]:
    """Every tensor of a folder by its name, from the headers alone.

    Raises ModelError where the folder is none, a shard is missing or broken, or what there is are
    pickles.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder}: is no folder")
    wanted = None
    if os.path.lexists(folder / INDEX):
        wanted = json_object(folder / INDEX, INDEX_BYTES).get("weight_map")
        good = isinstance(wanted, dict) and wanted
        if not good or not all(isinstance(name, str) for name in wanted.values()):
            raise ModelError(f"{folder / INDEX}: has no weight_map from tensors to files")
        for name in wanted.values():
            if not _FILE.fullmatch(name):
                raise ModelError(f"{folder / INDEX}: names {name!r}, no .safetensors beside it")
        files = sorted({*wanted.values()})
    else:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
        if pickles and not os.path.lexists(folder / TENSORS):
            raise ModelError(
                f"{folder / pickles[0]}: may hold pickled code, which is never loaded; convert the "
                "model to safetensors"
            )
        files = [TENSORS]
    found = {}
    for name in files:
        check_plain(folder / name)
        with _opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                about = file.get_slice(key)
                found[key] = Tensor(folder / name, tuple(about.get_shape()), about.get_dtype())
    for key, name in (wanted or {}).items():
        if key not in found or found[key].file.name != name:
            raise ModelError(f"{folder / name}: does not hold {key!r}, as {INDEX} says")
    return found


def arrays(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors one after another, file by file: one at a time is in memory."""
    for path in sorted({tensor.file for tensor in tensors.values()}):
        with _opened(path) as file:
            for name, tensor in tensors.items():
                if tensor.file == path:
                    yield name, file.get_tensor(name)


def write(
    folder: Path,
    tensors: Mapping[str, Any],
    config: Mapping[str, Any],
    shard_bytes: int = SHARD_BYTES,
    beside: Callable[[], None] = lambda: None,
) -> None:
    """Write arrays, which come to the host a shard at a time, and their config, that last.

    A model that is there already is replaced when the arrays are on disk; `beside` replaces what
    else belongs to it. Raises WorkdirError where the disk does not take them.
    """
    shards: list[list[str]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.nbytes > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += tensor.nbytes
    count = len(shards)
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    names = [TENSORS] if count == 1 else names
    partial = [folder / f"{name}.partial" for name in names]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, keys in zip(partial, shards, strict=True):
            here = {key: np.asarray(tensors[key], order="C") for key in keys}
            save_file(here, path, metadata={"format": "pt"})  # which transformers asks for
        # Of two models' files none may be read as one: without a config there is no model.
        (folder / CONFIG).unlink(missing_ok=True)
        for path in [path for path in folder.iterdir() if _WRITTEN.fullmatch(path.name)]:
            path.unlink()
        beside()
        for path in partial:
            path.replace(path.with_suffix(""))
        if count > 1:
            total = sum(tensor.nbytes for tensor in tensors.values())
            where = {key: n for n, keys in zip(names, shards, strict=True) for key in keys}
            index = {"metadata": {"total_size": total}, "weight_map": where}
            storage.write(folder / INDEX, json.dumps(index, indent=1) + "\n")
        storage.write(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    except (OSError, safetensors.SafetensorError) as error:
        for path in partial if folder.is_dir() else ():
            path.unlink(missing_ok=True)
        if found := re.search(r"os error (\d+)", str(error)):
            error = OSError(int(found[1]), os.strerror(int(found[1])))
        reason = getattr(error, "strerror", None) or error
        raise WorkdirError(f"{folder}: cannot be written ({reason})") from error


def _opened(path: Path):
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: {' '.join(str(error).split())}") from None
