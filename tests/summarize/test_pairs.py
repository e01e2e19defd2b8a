import hashlib
import json
import os
import resource
import warnings

import pytest

from synthjax.summarize import pairs
from synthjax.summarize.pairs import DataError, Pair


def line(i, **fields):
    return json.dumps({"id": f"a{i}", "summary": f"s {i}", "text": f"t {i}", **fields}) + "\n"


@pytest.fixture
def file(tmp_path):
    """Write lines (strings or bytes) into a file: its path."""

    def written(lines):
        path = tmp_path / "data.jsonl"
        path.write_bytes(b"".join(x if isinstance(x, bytes) else x.encode() for x in lines))
        return path

    return written


def refused(path, *said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as caught:
            pairs.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in said:
        assert part in message


GOOD = [line(i) for i in range(1000)]
MALFORMED = {
    "not JSON": b"{'id': 1}\n",
    "not JSON ": b"[" * 100_000 + b"\n",
    "not JSON  ": b'{"text": "t", "summary": "s", "n": ' + b"9" * 5000 + b"}\n",
    "not UTF-8": b'{"text": "caf\xe9", "summary": "s"}\n',
    "not an object": b'["text", "summary"]\n',
    "no text": b'{"summary": "s"}\n',
    "no text ": b'{"text": " \\n\\t", "summary": "s"}\n',
    "no summary": b'{"text": "t", "summary": ""}\n',
    "no summary ": b'{"text": "t", "summary": null}\n',
    "text is no string": b'{"text": ["t"], "summary": "s"}\n',
    "id is no string": b'{"id": 7.5, "text": "t", "summary": "s"}\n',
    "id is no string ": b'{"id": true, "text": "t", "summary": "s"}\n',
    "url is no string": b'{"url": false, "text": "t", "summary": "s"}\n',
    "text is no valid Unicode": b'{"text": "t \\ud800", "summary": "s"}\n',
    "id repeated": GOOD[3].encode(),
    "longer than 8 MiB": b'{"text": "' + b"x " * (5 << 20) + b'", "summary": "s"}\n',
}


def test_fields(file):
    path = file(
        [
            '\ufeff{"id": "1", "url": "u", "title": "T", "summary": "s", "text": "é ü", "x": 1}\n',
            "\n",
            '{"text": "é ü", "summary": "other"}\n',
            '{"id": 7, "text": "é ü", "summary": "third"}',
        ]
    )
    digest = hashlib.sha256("é ü".encode()).hexdigest()[:16]
    assert pairs.read(path) == [
        Pair("1", "u", "T", "s", "é ü"),
        Pair(digest, "", "", "other", "é ü"),
        Pair("7", "", "", "third", "é ü"),
    ]


def test_a_text_without_an_id_that_is_repeated(file):
    lines = ['{"text": "t", "summary": "s"}\n', '{"text": "t", "summary": "other"}\n']
    refused(file(lines), "line 2: text repeated")


@pytest.mark.parametrize("reason", MALFORMED)
def test_few_malformed_lines_are_left_out(file, reason):
    path = file([*GOOD[:500], MALFORMED[reason], *GOOD[500:]])
    with pytest.warns(UserWarning) as caught:
        found = pairs.read(path)
    assert [pair.id for pair in found] == [f"a{i}" for i in range(1000)]
    (warning,) = caught
    said = f"{path}: 1 of 1001 lines malformed (line 501: {reason.strip()}); they are left out"
    assert str(warning.message) == said
    assert warning.filename == __file__


@pytest.mark.parametrize("reason", MALFORMED)
def test_many_malformed_lines_are_an_error(file, reason):
    said = f"1 of 51 lines malformed (line 51: {reason.strip()})"
    refused(file([*GOOD[:50], MALFORMED[reason]]), said)


def test_the_limit_is_one_percent(file):
    """Blank lines count neither way, and of many lines the first five are named."""
    bad = ["{}\n"] * 10
    with pytest.warns(UserWarning, match="10 of 1000 lines malformed"):
        assert len(pairs.read(file([*bad, *GOOD[:990], *["\n"] * 500]))) == 990
    refused(
        file(["\n", *bad, *GOOD[:989], *["\n"] * 500]),
        "10 of 999 lines malformed (line 2: no text; line 3: ",
        "line 6: no text; ...)",
    )


def test_no_pairs(file, tmp_path):
    refused(file([]), "holds no pair")
    refused(file(["\n \n"]), "holds no pair")
    refused(tmp_path / "nowhere.jsonl", "No such file")


def test_only_regular_files(tmp_path, file):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("fifo", "link", ""):
        refused(tmp_path / name, "not a regular file")
    refused("/dev/zero", "not a regular file")
    refused(tmp_path / "loop", "symbolic links")
    (tmp_path / "good").symlink_to(file(GOOD))
    assert len(pairs.read(tmp_path / "good")) == 1000


def test_no_line_fills_the_memory(file, tmp_path):
    """256 MiB without a line end: never held whole."""
    path = file(GOOD)
    with path.open("r+b") as data:
        data.truncate(1 << 28)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    with pytest.warns(UserWarning, match="line 1001: longer than 8 MiB"):
        assert len(pairs.read(path)) == 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 65_536


def test_a_long_article(file):
    text = "word " * 100_000
    assert pairs.read(file([line(0, text=text)]))[0].text == text


def test_written_and_read(tmp_path):
    path = tmp_path / "data.jsonl"
    given = [
        Pair("1", "", "", "“s”", 'a\nb\u2028c\x85 "\\ 😀'),
        Pair("2", "http://x/ü", "T", "s", "t"),
    ]
    pairs.write(path, given)
    assert pairs.read(path) == given
    first, second = path.read_bytes().decode().strip("\n").split("\n")
    assert list(json.loads(first)) == ["id", "url", "title", "summary", "text"]
    assert second == '{"id": "2", "url": "http://x/ü", "title": "T", "summary": "s", "text": "t"}'
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.jsonl"]


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "data.jsonl"
    pairs.write(path, [Pair("1", "", "", "s", "t")])
    before = path.read_bytes()

    def broken():
        yield Pair("2", "", "", "s", "t")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairs.write(path, broken())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.jsonl"]


def test_splits_are_fixed():
    """What was in the test split must never come into training, whatever the version."""
    known = {"a": "test", "b": "train", "c": "validation", "news:1": "test", "debian:0ad": "train"}
    assert {id: pairs.split_of(id) for id in known} == known
    counts = {split: 0 for split in pairs.SPLITS}
    for i in range(20_000):
        counts[pairs.split_of(f"id {i}")] += 1
    # four standard deviations
    assert abs(counts["train"] - 16_000) < 4 * 57
    assert abs(counts["validation"] - 2_000) < 4 * 43
    assert abs(counts["test"] - 2_000) < 4 * 43
