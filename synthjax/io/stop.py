"""Stopping a run between two steps instead of in the middle of one."""

import itertools
import signal
import threading

import jax
from jax.experimental import multihost_utils

# How often it was asked, over all runs of the process: JAX's preemption service goes by that.
_times = itertools.count(1)


class Stopped(Exception):
    """The run was asked to stop; what it computed is saved, and running it again goes on."""


class GracefulStop:
    """Turns SIGTERM, and the first Ctrl-C, into a request that the run's loop looks at.

        with GracefulStop() as stop:
            for generation in generations:
                ...
                if stop.asked():
                    break

    Where several processes run together, JAX's preemption service takes SIGTERM and has all of them
    stop at the same time, for which all have to ask equally often. Ctrl-C interrupts there.

    A second Ctrl-C interrupts at once. Leaving restores the handlers that were there before. Python
    lets only the main thread set handlers: in any other, nothing is installed.
    """

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            together = jax.distributed.is_initialized()
            for number in () if together else (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether to stop, the same in every process."""
        if jax.distributed.is_initialized():
            self.requested |= multihost_utils.reached_preemption_sync_point(next(_times))
        return self.requested

    def _request(self, number, frame):
        self.requested = True
        outer = getattr(self._previous[number], "__self__", None)
        if isinstance(outer, GracefulStop):
            outer.requested = True
        if number == signal.SIGINT:
            signal.signal(number, self._previous[number])
