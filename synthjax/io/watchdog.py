"""Ending a process that hangs, with the stacks of all its threads, instead of letting it wait."""

import contextlib
import faulthandler
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax


def several() -> bool:
    """Whether other processes wait for this one."""
    return jax.process_count() > 1


class Watchdog:
    """Ends the process with exit code 1 where a beat takes far longer than those before it.

        with Watchdog() as watchdog:
            for batch in batches:
                work(batch)
                watchdog.beat()

    The first beat starts the watch, so that what is compiled before it may take its time. What is
    overdue: `TIMES` the longest beat so far, and `LEAST` seconds at least; `TOGETHER` at least
    where several processes run together, for one that is stuck has all of them wait. A beat that
    comes with an allowance of its own says nothing of the others.

    Where several run together, what is not done in beats is watched too: `phase` and `between`. One
    alone is not watched from there to the next beat.

    A thread says so. Where it cannot, for a stuck thread does not let go of the interpreter, it is
    Python's own `faulthandler`, which needs no lock.
    """

    TIMES = 20.0
    LEAST, TOGETHER = 300.0, 40.0  # gcsfs tries again for 36 s
    COMPILING = 1800.0
    SLOWEST = 5e6  # bytes a second that are written, or read and hashed as often as it takes
    EVERY = 1.0  # seconds between two looks, and between two windings of faulthandler

    def __init__(self):
        self._together = several()
        self._least = self.TOGETHER if self._together else self.LEAST
        self._last = self._wound = self._began = self._span = None
        self._longest = self._allowed = 0.0
        self._like_others = False
        self._over = threading.Event()

    def beat(self, allowed: float = 0.0) -> None:
        """Something was done; what comes may take so many seconds at least."""
        now = time.monotonic()
        if self._last is not None and self._like_others:
            self._longest = max(self._longest, now - self._last)
        self._last, self._allowed, self._like_others = now, allowed, not allowed
        if self._began is not None:  # the next one takes no longer than the first, compiled or not
            self._allowed, self._began = max(allowed, now - self._began), None
        overdue = max(self._least, self._allowed, self.TIMES * self._longest)
        self._span = now, now + overdue
        if self._allowed or self._wound is None or now - self._wound > self.EVERY:
            self._wound = now
            later = overdue + 5 * self.EVERY
            faulthandler.dump_traceback_later(later, exit=True, file=sys.__stderr__)

    def saving(self, tree: Any) -> None:
        """Something was done; what comes is to write these arrays."""
        self.beat(self._least + _bytes(tree) / self.SLOWEST)

    def phase(self, tree: Any = ()) -> None:
        """What comes may be to compile, to make tokens, or to move these arrays and others.

        Then come beats, which are like each other.
        """
        self.pause()
        self._longest = 0.0
        if self._together:
            self.beat(self.COMPILING + _bytes(tree) / self.SLOWEST)
        self._began = time.monotonic()

    def between(self, tree: Any) -> None:
        """What comes is to read, hash, gather or write these arrays, and little else."""
        self.pause()
        if self._together:
            self.saving(tree)

    def pause(self) -> None:
        """Watch no more until the next beat: what comes may take its time."""
        if self._wound is not None:
            faulthandler.cancel_dump_traceback_later()
        self._last = self._wound = self._began = self._span = None

    def _watch(self) -> None:
        while not self._over.wait(self.EVERY):
            since, until = self._span or (0.0, math.inf)
            if (now := time.monotonic()) > until:
                print(
                    f"error: nothing was done for {now - since:.3g} s, {until - since:.3g} s are "
                    "the most: this process, or another one of its run, is stuck. Run the same "
                    "command again to go on. What its threads do:",
                    file=sys.__stderr__,
                    flush=True,
                )
                faulthandler.dump_traceback(sys.__stderr__)
                os._exit(1)

    def __enter__(self):
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.pause()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """End the process where what is inside takes half an hour and others wait for it."""
    with Watchdog() as watchdog:
        watchdog.phase()
        yield


def _bytes(tree: Any) -> int:
    """Of all arrays, whether they are there or only their shapes."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
