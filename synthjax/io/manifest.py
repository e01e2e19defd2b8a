"""The manifest of a checkpoint's step: SHA-256 of its every file, written after all of them.

Whoever may have written the folder, nothing outside of it is read, and no link is followed.
"""

import hashlib
import json
from pathlib import PurePosixPath

from synthjax.io import storage
from synthjax.io.storage import Place

MANIFEST = "manifest.json"
MANIFEST_BYTES = 16 * 2**20  # about 100,000 files: more is no manifest of ours


class Flaw(Exception):
    """Which file of a step is bad, and why."""


def seal(folder: Place, step: int) -> None:
    """Writes the manifest of a committed step: on disk after all that it vouches for."""
    files = {
        name: (size, storage.fingerprint(folder / name, keep=True))
        for name, size in storage.files(folder).items()
    }
    for parent in {folder, folder.parent, *((folder / name).parent for name in files)}:
        storage.sync(parent)
    storage.write(folder / MANIFEST, text_of(step, files))


def verify(folder: Place, step: int) -> None:
    """Raises Flaw, naming the file, unless the step is exactly what its manifest says."""
    there = storage.files(folder)
    missing = read(folder, step, there.pop(MANIFEST, None))
    for name, found in there.items():
        if name not in missing:
            raise Flaw(f"{name!r} is not in the manifest")
        size, digest = missing.pop(name)
        if found < size:
            raise Flaw(f"{name!r} is truncated to {found} of {size} bytes")
        if found > size or storage.fingerprint(folder / name) != digest:
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


def read(folder: Place, step: int, size: int | None) -> dict[str, tuple[int, str]]:
    """File name -> (bytes, SHA-256), from a manifest of `size` bytes that may be anybody's."""
    if size is None:
        raise Flaw(f"{MANIFEST!r} is missing: the step was never sealed")
    if size > MANIFEST_BYTES:
        raise Flaw(f"{MANIFEST!r} has {size} bytes, over the limit of {MANIFEST_BYTES}")
    text = storage.read(folder / MANIFEST)
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
