import io
import json
import os
import stat
from pathlib import Path

import pytest
from summarize.prepared import everything, one

from synthjax.summarize import pairs, prepare
from synthjax.summarize.pairs import DataError, Pair

# Cleaning


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize(
    "text", ["café", "naïve ½ £5", "Erdoğan in Łódź", "€5 – “so” ‘it’ is…", "™ 😀 done", "à la"]
)
def test_mojibake_is_put_right(text, encoding):
    def misread(text):
        # Windows maps the five bytes that cp1252 lacks to themselves.
        return "".join(
            bytes([byte]).decode(encoding, "replace").replace("\ufffd", chr(byte))
            for byte in text.encode()
        )

    assert misread(text) != text
    assert prepare.repair(misread(text)) == text
    assert prepare.repair(misread(misread(text))) == text
    assert prepare.repair(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "CAFÉ’s “É” – É—",
        "Åland, Ärzte, Ähnlich",
        "à la «château» où",
        "São Paulo",
        "ÀÉÎ ßäöü",
        "â € 5",
    ],
)
def test_what_is_right_stays(text):
    assert prepare.repair(text) == text


def test_clean():
    raw = "e\u0301te\x00\x1b[1m\u200b\ufeff  a\tb\xa0c\r\n\r\n \n d\u2028e\ud800\x07"
    assert prepare.clean(raw) == "éte[1m a b c\nd\ne"
    assert prepare.clean(prepare.clean(raw)) == prepare.clean(raw)
    assert prepare.clean(" \n\x00\t") == ""


# Debian

FORTY = " ".join(f"word{i}" for i in range(40))


def stanza(package, body, synopsis="short synopsis", field="Description-en"):
    return f"Package: {package}\nDescription-md5: 0\n{field}: {synopsis}\n{body}\n"


def debian(*stanzas):
    return prepare.debian(io.StringIO("\n".join(stanzas)))


def test_debian_stanza():
    body = """ A paragraph that
 is wrapped  here
 .
 Features:
  * one thing
    that goes on
  * another
 The end of
 it. With more
 .
   $ command --option
   $ another
 goes there.
 - last
 1) numbered"""
    found = debian(stanza("tool", f"{body}\n .\n {FORTY}", "does \t things"))
    assert one(found) == Pair(
        "debian:tool",
        "",
        "tool",
        "does things",
        "A paragraph that is wrapped here\nFeatures:\n* one thing that goes on\n* another\n"
        "The end of it. With more\n$ command --option\n$ another\ngoes there.\n- last\n"
        "1) numbered\n" + FORTY,
    )


def test_debian_drops():
    found = debian(
        stanza("a", f" {FORTY}"),
        stanza("a", f" {FORTY} in another version"),
        stanza("a-dev", f" {FORTY.upper()}", "another synopsis"),
        stanza("b", " too short"),
        stanza("c", f" {FORTY} c", ""),
        stanza("d", f" {FORTY} d", field="Description-de"),
        stanza("e", f" {FORTY} caf\xc3\xa9"),
    )
    kept = {pair.id: pair.text for pair in everything(found)}
    assert kept == {"debian:a": FORTY, "debian:e": f"{FORTY} café"}
    report = found.report
    assert (report["read"], report["kept"], report["repaired"]) == (7, 2, 1)
    assert report["dropped"] == {
        "id repeated": 1,
        "no package or synopsis": 2,
        "text repeated": 1,
        "text under 40 words": 1,
    }


def test_debian_of_nothing():
    with pytest.raises(DataError, match="nothing of 0 is kept"):
        prepare.debian([])


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """An apt-get of one's own: a shell script, given the folder of the lists as $lists."""

    def put(script):
        path = tmp_path / "bin" / "apt-get"
        path.parent.mkdir(exist_ok=True)
        setting = 'lists=$(printf "%s\\n" "$@" | sed -n s/^-oDir::State::lists=//p)'
        path.write_text(f"#!/bin/sh\n{setting}\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)

    return put


def test_apt_that_fails(apt):
    apt("echo 'W: careful' >&2; echo 'E: no network' >&2; exit 100")
    with pytest.raises(DataError, match=r"^apt-get update: failed: E: no network$"):
        list(prepare.fetch_debian())


def test_apt_without_translations(apt):
    apt('test -d "$lists/partial" && touch "$lists/x_Packages"')
    with pytest.raises(DataError, match="no Translation-en"):
        list(prepare.fetch_debian())


def test_all_translations_in_the_order_of_their_names(monkeypatch):
    def run(*command):
        if command[-1] == "update":
            (lists,) = (x.split("=", 1)[1] for x in command if x.startswith("-oDir::State::lists="))
            for name in ("b_Translation-en.lz4", "a_Translation-en", "a_Packages"):
                (Path(lists) / name).write_text(stanza(name[0], f" {FORTY} {name}"))
            return b""
        return Path(command[-1]).read_bytes()

    monkeypatch.setattr(prepare, "_run", run)
    lines = list(prepare.fetch_debian())
    assert [line for line in lines if "Package" in line] == ["Package: a", "Package: b"]
    assert prepare.prepare("debian").report["read"] == 2  # a blank line parts two files


def test_no_apt(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match=r"^apt-get: No such file or directory; the source debian"):
        list(prepare.fetch_debian())


# XL-Sum


def xlsum_line(i, **fields):
    record = {
        "id": f"uk-{i}",
        "url": f"u{i}",
        "title": "T",
        "summary": f"s {i}",
        "text": f"t\n {i}",
    }
    return json.dumps({**record, **fields}) + "\n"


def test_xlsum_file(tmp_path):
    path = tmp_path / "any.jsonl"
    path.write_text("".join(xlsum_line(i) for i in range(200)) + "{}\n")
    with pytest.warns(UserWarning, match="1 of 201 lines malformed"):
        found = prepare.xlsum(path)
    assert found.report["read"] == 201
    assert found.report["dropped"] == {"malformed line": 1}
    assert {pair.text for pair in everything(found)} == {f"t\n{i}" for i in range(200)}
    for split, kept in found.splits.items():
        assert kept
        assert {pairs.split_of(pair.id) for pair in kept} == {split}


def test_xlsum_folder_keeps_its_split(tmp_path):
    train, validation, test = (tmp_path / name for name in prepare.XLSUM_FILES.values())
    train.write_text(
        "".join(xlsum_line(i) for i in range(8)) + xlsum_line(8, summary="caf\xc3\xa9")
    )
    validation.write_text(xlsum_line(20) + xlsum_line(21, text="\u200b"))
    test.write_text(xlsum_line(30) + xlsum_line(31, text="T 3") + xlsum_line(5))
    found = prepare.xlsum(tmp_path)
    ids = {split: [pair.id for pair in kept] for split, kept in found.splits.items()}
    assert ids == {
        "train": [f"uk-{i}" for i in (0, 1, 2, 4, 6, 7, 8)],  # 3 and 5 are in test
        "validation": ["uk-20"],
        "test": ["uk-30", "uk-31", "uk-5"],
    }
    assert found.splits["train"][-1].summary == "café"
    assert found.report["repaired"] == 1
    assert found.report["dropped"] == {
        "id repeated": 1,
        "no text or summary": 1,
        "text repeated": 1,
    }


def test_xlsum_missing(tmp_path):
    with pytest.raises(DataError, match=r"english_test\.jsonl: No such file"):
        prepare.xlsum(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: No such file"):
        prepare.xlsum(tmp_path / "nowhere")


# All of them


def test_a_path_goes_with_xlsum_alone():
    with pytest.raises(DataError, match="source=xlsum needs path="):
        prepare.prepare("xlsum")
    for source in ("news", "debian"):
        with pytest.raises(DataError, match=f"path=somewhere has no meaning with source={source}"):
            prepare.prepare(source, "somewhere")


def test_saved(tmp_path):
    found = debian(stanza("a", f" {FORTY}"), stanza("b", f" {FORTY} {'b' * 300}"))
    folder = tmp_path / "new" / "data"
    prepare.save(folder, found)
    names = {"train.jsonl", "validation.jsonl", "test.jsonl", "report.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "report.json").read_text()) == found.report
    for split, kept in found.splits.items():
        lines = (folder / f"{split}.jsonl").read_text().splitlines()
        assert [Pair(**json.loads(line)) for line in lines] == kept
    said = prepare.describe(found).splitlines()
    assert said[0] == "read 2, kept 2"
    assert said[-2] == "summary: short synopsis"
    assert len(said[-1]) <= 304


def test_a_report_says_that_the_files_belong_together(tmp_path, monkeypatch):
    found = debian(stanza("a", f" {FORTY}"))
    prepare.save(tmp_path, found)

    def full(path, pairs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "write", full)
    with pytest.raises(OSError):
        prepare.save(tmp_path, found)
    assert not [*tmp_path.iterdir()]  # half of another source's would be read as one with it
