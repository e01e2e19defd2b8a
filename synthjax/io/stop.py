"""Stopping a run between two steps instead of in the middle of one."""

import signal
import threading


class Stopped(Exception):
    """The run was asked to stop; what it computed is saved, and running it again goes on."""


class GracefulStop:
    """Turns SIGTERM, and the first Ctrl-C, into a request that the run's loop looks at.

        with GracefulStop() as stop:
            for generation in generations:
                ...
                if stop.requested:
                    break

    A second Ctrl-C interrupts at once. Leaving restores the handlers that were there before. Python
    lets only the main thread set handlers: in any other, nothing is installed.
    """

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        self.requested = True
        outer = getattr(self._previous[number], "__self__", None)
        if isinstance(outer, GracefulStop):
            outer.requested = True
        if number == signal.SIGINT:
            signal.signal(number, self._previous[number])
