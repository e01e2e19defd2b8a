import io
import json
import re
import resource
import sys
from contextlib import contextmanager
from itertools import pairwise

import pytest

from synthjax.io import log
from synthjax.io.log import Metrics, Progress


@contextmanager
def room_for(size: int):
    """No file of this process may grow beyond `size` bytes meanwhile."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_there_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        for chunk in range(3):
            metrics.write(chunk=chunk, accuracy=[0.5, 0.25], name="φ")
            assert [line["chunk"] for line in read(path)] == list(range(chunk + 1))
    first = read(path)[0]
    assert first["accuracy"] == [0.5, 0.25]
    assert first["name"] == "φ"
    assert abs(first["time"] - path.stat().st_mtime) < 5


def test_a_second_run_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for run in range(2):
        with Metrics(path) as metrics:
            metrics.write(run=run)
    assert [line["run"] for line in read(path)] == [0, 1]


@pytest.mark.parametrize("torn", ['{"time": 1, "chu', "{", '{"chunk": 2}'])
@pytest.mark.parametrize("whole", ["", '{"chunk": 0}\n', '{"chunk": 0}\n{"chunk": 1}\n'])
def test_a_torn_last_line_is_dropped(tmp_path, whole, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text(whole + torn)
    with Metrics(path) as metrics:
        metrics.write(chunk=9)
    assert path.read_text().startswith(whole)
    assert [line["chunk"] for line in read(path)] == [*range(whole.count("\n")), 9]


def test_no_line_is_lost_where_there_is_no_room(tmp_path):
    """Opening neither empties the file nor needs any room, with a torn line or without."""
    path = tmp_path / "metrics.jsonl"
    whole = '{"chunk": 0}\n' * 100
    for torn in ("", '{"chu'):
        path.write_text(whole + torn)
        with room_for(500), Metrics(path):
            pass
        assert path.read_text() == whole


class Clock:
    """In place of the time module: `seconds` is what time it is."""

    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(log, "time", clock)
    return clock


def test_rate_and_time_left(clock):
    progress = Progress("trajectories", total=1000)
    assert progress.text() == "0/1000 trajectories"
    clock.seconds += 8
    progress.advance(16)
    assert progress.text() == "16/1000 trajectories, 2/s, 8:12 left (compilation included)"
    clock.seconds += 8
    progress.advance(968)  # the first step, which had to be compiled, counts no more
    assert progress.text() == "984/1000 trajectories, 121/s, 0:00 left"


def test_what_was_there_does_not_count_towards_the_rate(clock):
    progress = Progress("chunks", total=100, done=90)
    assert progress.text() == "90/100 chunks"
    clock.seconds += 10
    progress.advance(5)
    assert progress.text() == "95/100 chunks, 0.5/s, 0:10 left (compilation included)"


@pytest.mark.parametrize(
    "left,said",
    [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")],
)
def test_time_left_in_words(clock, left, said):
    progress = Progress("steps", total=2)
    clock.seconds += left
    progress.advance(1)
    assert f"/s, {said} left" in progress.text()


def test_lines_every_ten_seconds_where_there_is_no_terminal(clock, capsys):
    with Progress("chunks", total=100) as progress:
        said = []
        for _ in range(100):
            clock.seconds += 1
            progress.advance(1)
            said.append(capsys.readouterr().err)
    seconds = [i + 1 for i, text in enumerate(said) if text]
    assert seconds[0] == 3  # the first as soon as there is something to say
    assert all(10 <= b - a <= 11 for a, b in pairwise(seconds))
    assert said[2] == "3/100 chunks, 1/s, 1:37 left\n"


def test_quiet_about_what_is_quick(clock, capsys):
    with Progress("chunks", total=4) as progress:
        for _ in range(4):
            clock.seconds += 0.4
            progress.advance(1)
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("chunks", total=4) as progress:
        for _ in range(4):
            progress.advance(1)
    assert re.search(r"4/4 chunks, \S+/s, 0:00 left", terminal.getvalue())
