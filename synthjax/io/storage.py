"""Folders and files of a run: of this machine, or objects of a bucket (gs://BUCKET/FOLDER).

A bucket has no folders, links or appending, and an object is there whole or not at all. What fails
there is an OSError, as it is on a disk.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
from etils import epath

Place = Path | epath.Path  # of this machine, or of a bucket

# Objects come and go without this process, by Orbax and by other hosts: what was listed once is no
# answer later.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False

BLOCK = 2**26  # bytes of an object that are asked for at once


class UnreachableError(OSError):
    """A bucket that gave no answer, or none to make use of."""


def place(path: str | os.PathLike) -> Place:
    """A path in words as one to work with. Raises OSError where it names what cannot be used."""
    text = os.fspath(path)
    if not text:  # Path("") would be the current folder
        raise OSError("must be a folder, here or as gs://BUCKET/FOLDER; the current one is .")
    if "://" not in text:
        return Path(text)
    # What gcsfs would take for a pattern, or for several addresses, is no name.
    if not re.match(r"gs://[^/]+/[^/.]", text) or re.search(r"[*?\[\]]|::", text):
        raise OSError("must be a folder, here or as gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise OSError("needs gcsfs: pip install -e '.[gcs]' in the project's folder")
    for name in ("gcsfs", "fsspec"):  # they tell of their caches and tries
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return epath.Path(text)


def exists(path: Place) -> bool:
    """Whether anything is there, be it a broken link."""
    if isinstance(path, Path):
        return os.path.lexists(path)
    with _as_os_errors():
        return path.exists()


def names(folder: Place) -> list[str]:
    """What lies in a folder; nothing does where there is none."""
    with _of(folder), contextlib.suppress(FileNotFoundError):
        return sorted(path.name for path in folder.iterdir())
    return []


def files(folder: Place) -> dict[str, int]:
    """All files below a folder by their names relative to it, and their bytes.

    Raises OSError where anything is no plain file: no link is followed out of it.
    """
    found = {}
    if not isinstance(folder, Path):
        with _as_os_errors():
            system, root = fsspec.url_to_fs(os.fspath(folder))
            for path, about in system.find(root, detail=True).items():
                found[path.removeprefix(f"{root}/")] = about["size"]
        return found
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise OSError("is not a folder")
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    prefixes.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    found[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    raise OSError(f"{name!r} is not a plain file")
    return found


def read(path: Place) -> bytes:
    """A file's content."""
    with _of(path):
        return path.read_bytes()


def write(path: Place, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all, and for good."""
    content = content.encode() if isinstance(content, str) else content
    if not isinstance(path, Path):
        with _as_os_errors():
            path.write_bytes(content)
        return
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def fingerprint(path: Place, *, keep: bool = False) -> str:
    """A file's SHA-256; `keep` puts it on disk for good, which Orbax leaves undone."""
    if not isinstance(path, Path):
        with _as_os_errors():
            system, name = fsspec.url_to_fs(os.fspath(path))
            with system.open(name, "rb", block_size=BLOCK) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    with open(path, "rb") as file:
        if keep:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(folder: Place) -> None:
    """Put on disk for good which files a folder has."""
    if isinstance(folder, Path):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make(folder: Place) -> None:
    """Make a folder and those above it; a bucket, which must be there, needs none."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)


def remove(path: Place) -> None:
    """Remove a file or link, or a folder and all in it, if it is there."""
    if not isinstance(path, Path):
        with _as_os_errors(), contextlib.suppress(FileNotFoundError):
            system, name = fsspec.url_to_fs(os.fspath(path))
            system.rm(name, recursive=True)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def local(folder: Place, last: str = "") -> Iterator[Path]:
    """A folder of this machine, whose files are in `folder` after the block.

    In a bucket the file of the name `last`, which vouches for the others, is not there until they
    are. A block that fails leaves nothing there.
    """
    if isinstance(folder, Path):
        make(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="synthjax-") as scratch:
        yield Path(scratch)
        written = [path for path in Path(scratch).rglob("*") if path.is_file()]
        written.sort(key=lambda path: path.name == last)
        if last:
            remove(folder / last)
        with _as_os_errors():
            for path in written:
                there = folder / path.relative_to(scratch).as_posix()
                system, name = fsspec.url_to_fs(os.fspath(there))
                system.put_file(os.fspath(path), name)


class Growing:
    """A text that grows, a line at a time: on a disk at once, in a bucket once in half a minute.

    There the object is written anew, with the first line after that time; those that were not when
    the process was killed are lost.
    """

    EVERY = 30.0  # seconds

    def __init__(self, path: Place):
        """Go on after the last whole line: a crash may have torn the one after it."""
        self._path, self._file = path, None
        if isinstance(path, Path):
            if path.exists():
                os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
            self._file = path.open("ab")
        else:
            self._text, self._new = read(path) if exists(path) else b"", False
            self._written = time.monotonic()

    def write(self, line: str) -> None:
        """Append a line."""
        text = f"{line}\n".encode()
        if self._file:
            self._file.write(text)
            self._file.flush()
            return
        self._text, self._new = self._text + text, True
        if time.monotonic() - self._written > self.EVERY:
            self._put()

    def close(self, write: bool = True) -> None:
        """All of it is there; without `write`, in a bucket, what was put there before."""
        if self._file:
            self._file.close()
        elif self._new and write:
            self._put()

    def _put(self) -> None:
        write(self._path, self._text)
        self._written, self._new = time.monotonic(), False


def _of(path: Place) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if isinstance(path, Path) else _as_os_errors()


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Those of gcsfs and of what it stands on have many classes and long texts."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).strip(" ,")[:300] or type(error).__name__
        refused = isinstance(error, OSError) and reason.startswith("Forbidden")
        kind = PermissionError if refused else UnreachableError
        raise kind(f"Cloud Storage: {reason}") from error
