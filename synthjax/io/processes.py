"""Several processes that run one command together, each with devices of its own.

All of them do the same in the same order; what may differ, such as what is on disk at a moment,
the first one finds out for all. The first alone prints and writes files that are not Orbax's.
"""

import contextlib
import errno
import faulthandler
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from synthjax.io.storage import UnreachableError

REFUSED, FAILED = 2, 1  # exit codes: of what cannot be run, and of what another time may
LASTING = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
}

STARTING = 1800.0  # seconds in which the devices of all are there
HEARTBEAT = 15  # seconds without a sign of life after which a process counts as lost


class FailedError(RuntimeError):
    """What can be run and failed; another time it may not."""


class ElsewhereError(RuntimeError):
    """What failed in the first process, which ends with that exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def exit_code(error: BaseException | None) -> int:
    """Whether scripts that start runs again should: FAILED or REFUSED, by what an error came of."""
    seen = set()  # a cause and what was raised while it was handled may be one
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ElsewhereError):
            return error.code
        if isinstance(error, FailedError | UnreachableError):
            return FAILED
        if isinstance(error, OSError) and error.errno and error.errno not in LASTING:
            return FAILED
        error = error.__cause__ or error.__context__
    return REFUSED


def begin(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Join the processes of this run, before anything touches a device.

    What is None is found out from the cluster. Raises RuntimeError or ValueError where it cannot
    be, or the others do not come.
    """
    jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=HEARTBEAT)
    # While all are here: on CPUs they wait 30 s for each other to connect, and longer after that.
    # A device that does not start in one of them would have the others wait for ever.
    faulthandler.dump_traceback_later(STARTING, exit=True, file=sys.__stderr__)
    try:
        agreed(lambda: None)
    finally:
        faulthandler.cancel_dump_traceback_later()


def first() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def agreed(compute: Callable[[], Any]) -> Any:
    """What the first process computes, JSON-able, in all of them; its error too."""
    if jax.process_count() == 1:
        return compute()
    text, failed = "", None
    if first():
        try:
            text = json.dumps({"value": compute()})
        except Exception as error:
            text, failed = json.dumps({"error": str(error), "code": exit_code(error)}), error
    content = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    content = np.resize(content, length) if len(content) else np.zeros(length, np.uint8)
    found = json.loads(multihost_utils.broadcast_one_to_all(content).tobytes())
    if failed is not None:
        raise failed
    if "error" in found:
        raise ElsewhereError(f"the first process: {found['error']}", found["code"])
    return found["value"]


def others(text: str) -> list[int]:
    """The processes, by number, that come with another text than the first."""
    if jax.process_count() == 1:
        return []
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    every = multihost_utils.process_allgather(own)
    return np.flatnonzero((every != every[0]).any(1)).tolist()


@contextlib.contextmanager
def ending_at_once(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """End this process as soon as it fails: the others wait for it and would not learn of it.

    `errors` take one line and their `exit_code`.
    """
    try:
        yield
        return
    except (*errors, ElsewhereError) as error:
        code = exit_code(error)
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else FAILED
    except jax.errors.JaxRuntimeError as error:
        code = FAILED
        print(
            "error: a computation that all processes share failed; another one may have ended. "
            f"Run the same command in all of them to go on. ({' '.join(str(error).split())[:300]})",
            file=sys.stderr,
        )
    except BaseException:
        code = FAILED
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
