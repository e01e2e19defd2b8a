"""ROUGE-1, -2 and -L (Lin 2004) by the reference implementation, in worker processes."""

import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from jaxtyping import Float

import synthjax

Host = np.ndarray
METRICS = ("rouge1", "rouge2", "rougeL")
FEW = 400  # pairs that are scored sooner than a worker begins


def rouge(guesses: Sequence[str], references: Sequence[str]) -> Float[Host, "n 3"]:
    """F-measures of `METRICS`, words stemmed (Porter), in [0, 1].

    Raises ChildProcessError where a worker is killed; the next call begins new ones.
    """
    pairs = list(zip(guesses, references, strict=True))
    if len(pairs) <= FEW:
        return np.array([_one(*pair) for pair in pairs], np.float32).reshape(-1, len(METRICS))
    parts = [pairs[i : i + 100] for i in range(0, len(pairs), 100)]
    try:
        return np.concatenate(list(_workers().map(_some, parts)))
    except BrokenProcessPool:
        _workers.cache_clear()
        raise ChildProcessError(
            "a process that scored ROUGE was killed, perhaps for lack of memory, or did not begin: "
            "a script's work belongs under `if __name__ == '__main__':`"
        ) from None


def check_main() -> None:
    """Raises RuntimeError in a worker that imports a script, which would do all its work again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError("a script's work belongs under `if __name__ == '__main__':`")


@functools.cache
def _scorer():
    from rouge_score import rouge_scorer  # with SciPy's statistics: two seconds

    return rouge_scorer.RougeScorer(list(METRICS), use_stemmer=True)


def _one(guess: str, reference: str) -> list[float]:
    found = _scorer().score(reference, guess)
    return [found[name].fmeasure for name in METRICS]


def _some(pairs) -> Float[Host, "n 3"]:
    return np.array([_one(*pair) for pair in pairs], np.float32)


@functools.cache
def _workers() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # what has used JAX must not be forked
    return ProcessPoolExecutor(synthjax.cores(), context, _begin, (os.getpid(),))


def _begin(parent: int) -> None:
    """A worker ends with its parent, also where that is killed."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
