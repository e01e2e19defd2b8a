"""Several processes that run one command together, each with devices of its own.

All of them do the same in the same order; what may differ, such as what is on disk at a moment,
the first one finds out for all. The first alone prints and writes files that are not Orbax's.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost


class ElsewhereError(RuntimeError):
    """What failed in the first process."""


def begin(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Join the processes of this run, before anything touches a device.

    What is None is found out from the cluster. Raises RuntimeError or ValueError where it cannot
    be, or the others do not come.
    """
    jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=HEARTBEAT)
    # While all are here: on CPUs they wait 30 s for each other to connect, and longer after that.
    agreed(lambda: None)


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
            text, failed = json.dumps({"error": str(error)}), error
    content = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    content = np.resize(content, length) if len(content) else np.zeros(length, np.uint8)
    found = json.loads(multihost_utils.broadcast_one_to_all(content).tobytes())
    if failed is not None:
        raise failed
    if "error" in found:
        raise ElsewhereError(f"the first process: {found['error']}")
    return found["value"]


@contextlib.contextmanager
def ending_at_once(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """End this process as soon as it fails: the others wait for it and would not learn of it.

    `errors` take one line and the exit code 2.
    """
    try:
        yield
        return
    except (*errors, ElsewhereError) as error:
        code = 2
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except jax.errors.JaxRuntimeError as error:
        code = 1
        print(
            "error: a computation that all processes share failed; another one may have ended. "
            f"Run the same command in all of them to go on. ({' '.join(str(error).split())[:300]})",
            file=sys.stderr,
        )
    except BaseException:
        code = 1
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
