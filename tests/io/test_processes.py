"""How processes end."""

import errno

import pytest

from synthjax.io.checkpoint import CheckpointError, SaveError
from synthjax.io.processes import FAILED, REFUSED, ElsewhereError, exit_code
from synthjax.io.storage import UnreachableError
from synthjax.io.tensors import ModelError
from synthjax.io.workdir import WorkdirError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkdirError("holds a run with another spec"), REFUSED),
        (ModelError("is no model"), REFUSED),
        (FileNotFoundError(errno.ENOENT, "no such file"), REFUSED),
        (PermissionError(errno.EACCES, "not yours"), REFUSED),
        (OSError(errno.ENOSPC, "no space"), FAILED),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), FAILED),
        (OSError("is not a folder"), REFUSED),
        (UnreachableError("503"), FAILED),
        (SaveError("could not be saved"), FAILED),
        (CheckpointError("already saved"), REFUSED),
        (ElsewhereError("the first process: no space", FAILED), FAILED),
        (ElsewhereError("the first process: another spec", REFUSED), REFUSED),
    ],
)
def test_scripts_try_again_what_may_go_well_another_time(error, code):
    assert exit_code(error) == code


@pytest.mark.parametrize(
    ("cause", "code"), [(errno.ENOSPC, FAILED), (errno.EIO, FAILED), (errno.EACCES, REFUSED)]
)
def test_what_an_error_came_of_counts_though_it_is_not_shown(cause, code):
    with pytest.raises(WorkdirError) as raised:
        try:
            raise OSError(cause, "no")
        except OSError:
            raise WorkdirError("cannot be written") from None
    assert exit_code(raised.value) == code


def test_causes_in_a_circle():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert exit_code(one) == REFUSED
