"""The watchdog: quiet while there are beats, and then not."""

import subprocess
import sys
import time

import pytest

from synthjax.io import watchdog

STUCK = """
import threading, time
import numpy as np
from synthjax.io import watchdog
from synthjax.io.watchdog import Watchdog
watchdog.several = lambda: {several}
Watchdog.LEAST = Watchdog.TOGETHER = 0.3
Watchdog.EVERY, Watchdog.TIMES = 0.05, {times}
with Watchdog() as dog:
    time.sleep(0.5)  # what comes before the first beat may take its time
    for _ in range(5):
        time.sleep(0.1)
        dog.beat()
    {then}
time.sleep(1)
print("alive")
"""


def run(then, times=2.0, several=False):
    code = STUCK.format(then=then, times=times, several=several)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_a_process_that_hangs_ends_with_its_stacks():
    done = run("threading.Event().wait()")
    assert done.returncode == 1 and "alive" not in done.stdout
    assert "error: nothing was done for 0." in done.stderr and "is stuck" in done.stderr
    assert "threading.py" in done.stderr


@pytest.mark.slow
def test_one_that_does_not_let_go_of_the_interpreter_ends_too():
    """A regular expression that takes for ever: no other thread runs."""
    done = run("import re; re.match('(a*)*b', 'a' * 40)")
    assert done.returncode == 1 and "alive" not in done.stdout
    assert "Timeout" in done.stderr and "test_watchdog" not in done.stdout


@pytest.mark.slow
def test_a_pause_may_take_its_time():
    done = run("dog.pause(); time.sleep(1); dog.beat()")
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "then, ends",
    [
        ("dog.between(np.zeros(3))", True),
        ("dog.between(np.zeros(10**7))", False),  # 80 MB at 5 MB/s
        ("dog.phase()", False),
        ("Watchdog.COMPILING = 0.3; dog.phase()", True),
        ("dog.phase(); time.sleep(0.5); dog.beat()", True),  # what was compiled is over
    ],
)
def test_where_others_wait_all_is_watched(then, ends):
    done = run(f"{then}; time.sleep(1)", several=True)
    assert (done.returncode == 1 and "is stuck" in done.stderr) == ends, done.stderr
    assert ("alive" in done.stdout) != ends


@pytest.mark.slow
@pytest.mark.parametrize("then", ["dog.between(np.zeros(3))", "dog.phase()"])
def test_one_alone_is_watched_in_beats_only(then):
    done = run(f"{then}; time.sleep(1)")
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("then, times", [("pass", 2.0), ("time.sleep(1)", 20.0)])
def test_one_that_ends_or_is_only_slow_goes_on(then, times):
    """Twenty times the longest beat, 0.1 s, is 2 s."""
    done = run(then, times)
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_second_may_take_as_long_as_the_first():
    """0.8 s each, compiled or not, where 0.3 s are the least."""
    then = "dog.phase(); time.sleep(0.8); dog.beat(); time.sleep(0.6); dog.beat(); time.sleep(0.8)"
    done = run(then, several=True)
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr


def test_it_is_wound_up_once_a_second_at_most(monkeypatch):
    wound = []
    monkeypatch.setattr(
        watchdog.faulthandler, "dump_traceback_later", lambda seconds, **_: wound.append(seconds)
    )
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    dog = watchdog.Watchdog()
    for _ in range(1000):
        dog.beat()
        now[0] += 0.01
    assert 8 <= len(wound) <= 10
    now[0] += 100
    dog.beat()
    assert wound[-1] > 2000
