"""Pairs of an article and its summary: JSON lines on disk, and the split that each belongs to.

A line is an object with the fields of XL-Sum (Hasan et al., arXiv 2106.13822), all strings:

    {"id": "...", "url": "...", "title": "...", "summary": "...", "text": "..."}
"""

import hashlib
import json
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

SPLITS = ("train", "validation", "test")

_LONGEST_LINE = 8 << 20  # bytes, so that a file without line ends cannot fill the memory
_SHOWN = 5  # malformed lines that a message names


class Pair(NamedTuple):
    """An article and its summary; every field is a string, `summary` and `text` are not empty."""

    id: str
    url: str
    title: str
    summary: str
    text: str


class DataError(ValueError):
    """Data that cannot be used; the message is one line: the path and the reason."""


class _Malformed(Exception):
    """A line that holds no pair; the message is the reason."""


def read(path: str | os.PathLike) -> list[Pair]:
    """The pairs of a JSON-lines file; warns once about malformed lines and leaves them out.

    Each line is an object with the non-empty strings `text` and `summary`. The strings `id`, `url`
    and `title` may be missing or null: the id is then the first 16 hexadecimal digits of the text's
    SHA-256. An id may be a whole number, too. Other fields and blank lines are ignored. A line is
    malformed if it is anything else, longer than 8 MiB, not UTF-8, or repeats an id or, without
    one, a text.

    Raises:
      DataError: the file cannot be read, is no regular file, holds no pair, or more than 1 % of its
        lines are malformed (the first five are named).
    """
    return scan(path)[0]


def scan(path: str | os.PathLike) -> tuple[list[Pair], int]:
    """What `read` returns, and the number of malformed lines; raises and warns as `read` does."""
    pairs, ids, first, malformed, number, count = [], set(), [], 0, 0, 0
    try:
        with open_regular(path) as file:
            while line := file.readline(_LONGEST_LINE):
                number += 1
                try:
                    if len(line) == _LONGEST_LINE:
                        while line and not line.endswith(b"\n"):
                            line = file.readline(_LONGEST_LINE)
                        raise _Malformed("longer than 8 MiB")
                    if not line.strip():
                        continue
                    pair, named = _parse(line)
                    if pair.id in ids:
                        raise _Malformed("id repeated" if named else "text repeated")
                    ids.add(pair.id)
                    pairs.append(pair)
                except _Malformed as error:
                    malformed += 1
                    if len(first) < _SHOWN:
                        first.append(f"line {number}: {error}")
                count += 1
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if malformed:
        named = "; ".join(first) + ("; ..." if malformed > _SHOWN else "")
        message = f"{path}: {malformed} of {count} lines malformed ({named})"
        if 100 * malformed > count:
            raise DataError(message)
        warnings.warn(f"{message}; they are left out", stacklevel=3)
    if not pairs:
        raise DataError(f"{path}: holds no pair of text and summary")
    return pairs, malformed


def write(path: str | os.PathLike, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSON lines, so that the file is there whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    write_text(path, (json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in pairs))


def write_text(path: str | os.PathLike, parts: Iterable[str]) -> None:
    """Write the parts one after another as UTF-8; the file is there whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def split_of(id: str) -> str:
    """The split of a pair, by the SHA-256 of its id: train 80 %, validation 10 %, test 10 %.

    It depends on nothing else, so a pair stays where it is when others come or go.
    """
    tenth = int(hashlib.sha256(id.encode()).hexdigest(), 16) % 10
    return SPLITS[max(0, tenth - 7)]


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file, or a link to one, for reading bytes.

    Raises:
      DataError: it is anything else (a folder, a FIFO, a device).
      OSError: it cannot be opened.
    """
    # Not blocking: opening a FIFO would wait for a writer. What is checked is what was opened.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path}: not a regular file")
    return os.fdopen(descriptor, "rb")


def _parse(line: bytes) -> tuple[Pair, bool]:
    """A line's pair, and whether it has an id of its own."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _Malformed("not UTF-8") from None
    except (ValueError, RecursionError):
        raise _Malformed("not JSON") from None
    if not isinstance(record, dict):
        raise _Malformed("not an object")
    values = {}
    for name in Pair._fields:
        value = record.get(name)
        if value is None:
            value = ""
        if name == "id" and type(value) is int:
            value = str(value)
        if not isinstance(value, str):
            raise _Malformed(f"{name} is no string")
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON's "\ud800" gives half of a character
            raise _Malformed(f"{name} is no valid Unicode") from None
        values[name] = value
    for name in ("text", "summary"):
        if not values[name].strip():
            raise _Malformed(f"no {name}")
    named = bool(values["id"])
    values["id"] = values["id"] or hashlib.sha256(values["text"].encode()).hexdigest()[:16]
    return Pair(**values), named
