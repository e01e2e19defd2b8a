"""What is said of a model while it is trained: metrics.jsonl, TensorBoard, the watchdog."""

import contextlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from synthjax.io import processes, storage
from synthjax.io.log import Metrics
from synthjax.io.storage import Place
from synthjax.io.watchdog import Watchdog


class LearningLog:
    """Takes the metrics of each step; a context manager, which closes the board.

    `about` begins each line, of which there is one for `every` so many of the `total` steps and one
    for the last; `board` is the folder of TensorBoard's files, on whose axis the steps of
    generations `before` this one come first; `step` are those of this one that an earlier run took,
    and then all that were taken.
    """

    def __init__(
        self,
        metrics: Metrics,
        watchdog: Watchdog,
        about: dict[str, Any],
        *,
        every: int,
        total: int,
        board: Place,
        before: int,
        step: int,
    ):
        self.step = step
        self._metrics, self._watchdog, self._about = metrics, watchdog, about
        self._every, self._total, self._before = every, total, before
        self._board, self._local = None, contextlib.ExitStack()
        if processes.first():
            folder = self._local.enter_context(storage.local(board))
            self._board = _board(str(folder), purge_step=before + step)
        self._losses: list[float] = []

    def take(self, group: Sequence[Any]) -> None:
        """The metrics of steps that were done together."""
        if group:
            self._watchdog.beat()
        for metrics in group:
            self._take(metrics)

    def _take(self, metrics: Any) -> None:
        """Of a step; every so often a line, with the mean loss since the last one."""
        self.step += 1
        self._losses.append(float(metrics.loss))
        last = self.step == self._total
        if self.step % self._every == 0 or last:
            line = {name: float(value) for name, value in metrics._asdict().items()}
            line["loss"] = float(np.mean(self._losses))
            self._losses = []
            self._metrics.write(**self._about, step=self.step, **line)
            for name, value in line.items() if self._board else ():
                self._board.add_scalar(f"learning/{name}", value, self._before + self.step)
        if last and int(metrics.skipped):
            warnings.warn(
                f"{self._about}: {int(metrics.skipped)} training steps changed nothing, for their "
                "gradient was not finite",
                stacklevel=2,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._watchdog.phase()
        try:
            with self._local:
                if self._board:
                    self._board.close()
        except OSError as error:  # of what nothing depends on
            warnings.warn(f"tb/: cannot be written ({error})", stacklevel=2)


def _board(*args, **kwargs):
    """A SummaryWriter, without PyTorch, which it would import where that is installed: seconds."""
    hidden = sys.modules.setdefault("torch", None) is None  # then an import of it fails
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter(*args, **kwargs)
