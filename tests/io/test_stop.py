import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from synthjax.io.stop import GracefulStop

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request(number):
    before = [signal.getsignal(n) for n in SIGNALS]
    with GracefulStop() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_a_second_interrupt_is_obeyed_at_once():
    # A test process that another one started ignores SIGINT, unlike a run.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_twice():
    with pytest.raises(KeyboardInterrupt), GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second SIGINT was swallowed")


def test_terminated_many_times():
    with GracefulStop() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_handlers_come_back_after_an_exception():
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(ZeroDivisionError), GracefulStop():
        assert [signal.getsignal(n) for n in SIGNALS] != before
        1 / 0  # noqa: B018
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_in_another_thread_nothing_is_installed():
    before = [signal.getsignal(n) for n in SIGNALS]
    seen = []

    def work():
        with GracefulStop() as stop:
            seen.append([signal.getsignal(n) for n in SIGNALS])
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]


LOOP = """
import time
from synthjax.io.stop import GracefulStop
with GracefulStop() as stop:
    print("up", flush=True)
    while not stop.requested:
        time.sleep(0.01)
print("saved")
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_told_to_stop_ends_well(number):
    child = subprocess.Popen(
        [sys.executable, "-c", LOOP],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "up\n"
    child.send_signal(number)
    assert child.communicate(timeout=30) == ("saved\n", None)
    assert child.returncode == 0
