"""What a run says while it goes on: metrics.jsonl, and progress with rate and time left."""

import contextlib
import json
import math
import sys
import time

import rich.console
import rich.progress

from synthjax.io.processes import REFUSED, exit_code, first
from synthjax.io.storage import Growing, Place
from synthjax.io.workdir import WorkdirError


class Metrics:
    """metrics.jsonl: one JSON object a line, each with the time of writing.

    Raises WorkdirError where the file cannot be written.
    """

    def __init__(self, path: Place):
        """Open for appending."""
        self._path = path
        with self._refused():
            self._file = Growing(path) if first() else None

    def write(self, **values) -> None:
        """Append one line; a number that is not finite becomes null, which JSON has."""
        values = {"time": round(time.time(), 3), **values}
        with self._refused():
            if self._file:
                self._file.write(json.dumps(_finite(values), allow_nan=False))

    @contextlib.contextmanager
    def _refused(self):
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise WorkdirError(f"{self._path}: cannot be written ({reason})") from None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        with contextlib.suppress(OSError) if kind else self._refused():
            if self._file:
                # A bucket that did not answer is not tried again, for tens of seconds in which the
                # processes that share the run learn of nothing.
                self._file.close(write=error is None or exit_code(error) == REFUSED)


class Progress:
    """A progress bar on a terminal, otherwise a line every ten seconds; on standard error.

    Quiet about what takes less than two seconds.
    """

    EVERY = 10.0

    def __init__(self, unit: str, total: int, done: int = 0):
        """`done` of `total` were there already and do not count towards the rate."""
        self.unit, self.total, self.done = unit, total, done
        self._start = self._said = time.monotonic()
        # Where the rate counts from: the start, and once there is more, the end of the first step,
        # which had to be compiled.
        self._from, self._warm = (self._start, done), None
        self._bar = None
        self._quiet = not first()
        if sys.stderr.isatty() and not self._quiet:
            columns = ("{task.description}", rich.progress.BarColumn(), "{task.fields[text]}")
            console = rich.console.Console(stderr=True)
            self._bar = rich.progress.Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(unit, total=total, completed=done, text="compiling")

    def text(self) -> str:
        """Done, rate and time left, in words."""
        start, before = self._from
        rate = (self.done - before) / max(time.monotonic() - start, 1e-9)
        words = f"{self.done}/{self.total} {self.unit}"
        if rate > 0:
            left = (self.total - self.done) / rate
            slow = " (compilation included)" if start == self._start else ""
            words += f", {rate:.3g}/s, {_clock(left)} left{slow}"
        return words

    def advance(self, count: int) -> None:
        """Count `count` more as done."""
        self.done += count
        now = time.monotonic()
        if self._warm is None:
            self._warm = now, self.done
        else:
            self._from = self._warm
        if self._bar is not None:
            self._bar.update(self._task, advance=count, text=self.text())
        elif (
            not self._quiet
            and now - self._start > 2
            and (now - self._said > self.EVERY or self._said == self._start)
        ):
            self._said = now
            print(self.text(), file=sys.stderr, flush=True)

    def __enter__(self):
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.stop()


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
