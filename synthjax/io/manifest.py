"""The manifest of a checkpoint's step: SHA-256 of its every file, written after all of them.

Whoever may have written the folder, nothing outside of it is read, and no link is followed.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MANIFEST = "manifest.json"
MANIFEST_BYTES = 16 * 2**20  # about 100,000 files: more is no manifest of ours


class Flaw(Exception):
    """Which file of a step is bad, and why."""


def seal(folder: Path, step: int) -> None:
    """Writes the manifest of a committed step: on disk after all that it vouches for."""
    files = {name: _fingerprint(folder / name, sync=True) for name in _plain_files(folder)}
    for parent in {folder, folder.parent, *((folder / name).parent for name in files)}:
        _sync_folder(parent)
    draft = folder / f"{MANIFEST}.tmp"
    with open(draft, "wb") as file:
        file.write(text_of(step, files))
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / MANIFEST)
    _sync_folder(folder)


def verify(folder: Path, step: int) -> None:
    """Raises Flaw, naming the file, unless the step is exactly what its manifest says."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise Flaw("is not a folder")
    missing = read(folder, step)
    for name in _plain_files(folder):
        if name == MANIFEST:
            continue
        if name not in missing:
            raise Flaw(f"{name!r} is not in the manifest")
        size, digest = missing.pop(name)
        found = (folder / name).lstat().st_size
        if found < size:
            raise Flaw(f"{name!r} is truncated to {found} of {size} bytes")
        if found > size or _fingerprint(folder / name) != (size, digest):
            raise Flaw(f"{name!r} has changed since it was saved")
    for name in missing:
        raise Flaw(f"{name!r} is missing")


def text_of(step: int, files: dict[str, tuple[int, str]]) -> bytes:
    """The manifest's one valid spelling, which vouches for itself too."""
    content = {
        "step": int(step),
        "files": {name: {"bytes": size, "sha256": sha} for name, (size, sha) in files.items()},
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content | {"sha256": digest}, sort_keys=True, indent=1).encode()


def read(folder: Path, step: int) -> dict[str, tuple[int, str]]:
    """File name -> (bytes, SHA-256), from a manifest that may be anybody's."""
    try:
        status = (folder / MANIFEST).lstat()
    except FileNotFoundError:
        raise Flaw(f"{MANIFEST!r} is missing: the step was never sealed") from None
    if not stat.S_ISREG(status.st_mode):
        raise Flaw(f"{MANIFEST!r} is not a plain file")
    if status.st_size > MANIFEST_BYTES:
        raise Flaw(f"{MANIFEST!r} has {status.st_size} bytes, over the limit of {MANIFEST_BYTES}")
    text = (folder / MANIFEST).read_bytes()
    try:
        listed = json.loads(text)["files"]
        files = {name: (int(it["bytes"]), str(it["sha256"])) for name, it in listed.items()}
    except Exception as error:  # whatever hostile JSON provokes: no dict, no number, too deep, ...
        raise Flaw(f"{MANIFEST!r} is truncated or no manifest") from error
    if text != text_of(step, files):
        raise Flaw(f"{MANIFEST!r} has changed since it was written, or is of another step")
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise Flaw(f"{MANIFEST!r} lists {name!r}, outside the step")
    return files


def _plain_files(folder: Path) -> Iterator[str]:
    """Names of all files below `folder`, relative to it; never leaves it through a link."""
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    prefixes.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    yield name
                else:
                    raise Flaw(f"{name!r} is not a plain file")


def _fingerprint(path: Path, *, sync: bool = False) -> tuple[int, str]:
    """A file's bytes and SHA-256; `sync` puts it on disk for good, which Orbax leaves undone."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return file.tell(), digest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
