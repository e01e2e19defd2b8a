"""Ending a process that hangs, with the stacks of all its threads, instead of letting it wait."""

import faulthandler
import sys
import time


class Watchdog:
    """Ends the process with exit code 1 where a beat takes far longer than those before it.

        with Watchdog() as watchdog:
            for batch in batches:
                work(batch)
                watchdog.beat()

    The first beat starts the watch, so that what is compiled before it may take its time. What is
    overdue: `TIMES` the longest beat so far, and `LEAST` seconds at least. The watching is Python's
    own `faulthandler`, which needs no lock that a stuck thread may hold.
    """

    TIMES = 20.0
    LEAST = 300.0
    EVERY = 1.0  # seconds between two windings, each of which starts a thread

    def __init__(self):
        self._last = self._wound = None
        self._longest = 0.0

    def beat(self) -> None:
        """Something was done."""
        now = time.monotonic()
        if self._last is not None:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        if self._wound is None or now - self._wound > self.EVERY:
            self._wound = now
            overdue = max(self.LEAST, self.TIMES * self._longest) + self.EVERY
            faulthandler.dump_traceback_later(overdue, exit=True, file=sys.__stderr__)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        faulthandler.cancel_dump_traceback_later()
