"""Checkpoints that are known to be whole: Orbax writes a step, a SHA-256 manifest seals it.

Orbax alone restores an array file with a flipped bit without a word. So once Orbax has committed a
step, every file of it is hashed and the hashes go into the step's manifest (`io.manifest`), the
last thing written; nothing is restored, or counted as saved, that does not match its manifest.
"""

import logging
import os
import re
import tempfile
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from synthjax.io import manifest, storage
from synthjax.io.processes import FailedError, agreed, first
from synthjax.io.storage import Place, UnreachableError


class CheckpointError(RuntimeError):
    """A checkpoint could not be saved or trusted; one line: the path, what happened, what to do."""


class SaveError(CheckpointError, FailedError):
    """One that could not be saved."""


class Checkpoints:
    """The numbered steps of one run, each an Orbax checkpoint sealed by a SHA-256 manifest.

    Step s lives in `directory/s`. A step counts once it is sealed; one cut short by a crash, or
    damaged later, is left out by `steps` and `latest` with a warning and may be saved again. One
    run at a time may use a directory, all of its processes together, and one thread of each.

        with Checkpoints(workdir / "checkpoints") as checkpoints:
            checkpoints.save(3, {"norm": norm, "key": key})
            state = checkpoints.restore(checkpoints.latest())
    """

    def __init__(self, directory: str | os.PathLike):
        """Creates `directory`; raises CheckpointError when it cannot be written."""
        try:
            self.directory = storage.place(directory)
            if isinstance(self.directory, Path):
                self.directory = self.directory.absolute()
                storage.make(self.directory)
                tempfile.TemporaryFile(dir=self.directory).close()
        except OSError as error:
            raise CheckpointError(
                f"{directory}: cannot hold checkpoints: {_reason(error)}; "
                "choose a directory that can be written"
            ) from error
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="seal")
        self._sealing: Future | None = None

    def save(self, step: int, tree: Any) -> None:
        """Starts saving `tree`, once the save before is known to be sealed, and returns.

        The values are those of this moment: arrays may be changed or donated as soon as it returns.

        Args:
            step: at least 0, and not yet saved; a damaged or unsealed step of that number is
                replaced.
            tree: pytree of numpy arrays, jax arrays, typed PRNG keys, numbers and strings; no array
                may be empty.

        Raises:
            CheckpointError: the save before failed, or this one cannot start, or a whole step of
                that number exists.
        """
        self.wait()
        agreed(lambda: self._make_room(step))
        try:
            orbax = _orbax()  # for this save alone: an old one brings up failures of the past
            orbax.save(self._path(step), args=ocp.args.PyTreeSave(tree))
        except Exception as error:
            raise self._failed(step, error) from error
        self._sealing = self._thread.submit(self._seal, step, orbax)

    def wait(self) -> None:
        """Returns once the save under way is sealed; raises CheckpointError if it failed."""
        sealing, self._sealing = self._sealing, None
        if sealing is None:
            return
        error = sealing.exception()
        if error and not first():
            raise error
        agreed(sealing.result)

    def steps(self) -> list[int]:
        """The steps whose every file verifies, ascending; warns of each other one, naming the file.

        Raises CheckpointError if the save under way failed.
        """
        self.wait()
        return agreed(lambda: [step for step in self._listed() if self._verifies(step)])

    def latest(self) -> int | None:
        """The newest step that verifies, or None; warns of each newer one, naming the bad file.

        Reads no more steps than it must. Raises CheckpointError if the save under way failed.
        """
        self.wait()
        return agreed(lambda: next(filter(self._verifies, reversed(self._listed())), None))

    def restore(self, step: int, target: Any = None) -> Any:
        """Reads a step back, having verified it.

        Args:
            step: one that `steps` lists.
            target: pytree of jax.ShapeDtypeStruct of the tree that was saved. A leaf with a
                sharding comes back as a jax.Array laid out so, whatever devices wrote it; without,
                as a numpy array.

        Returns:
            A tree like `target`; without one, a tree of numpy arrays in which dataclasses and named
            tuples have become dicts. Typed PRNG keys come back typed either way.

        Raises:
            CheckpointError: a file is missing, truncated, changed or foreign, or the step does not
                hold what `target` asks for.
        """
        self.wait()
        path = self._path(step)
        if flaw := agreed(lambda: self._flaw(step)):
            raise CheckpointError(flaw)
        try:
            with _orbax() as orbax:
                if target is None:
                    how = jax.tree.map(_read_as_numpy, orbax.metadata(path).item_metadata.tree)
                else:
                    how = jax.tree.map(_read_as_target, target)
                tree = orbax.restore(path, args=ocp.args.PyTreeRestore(target, restore_args=how))
        except Exception as error:
            raise CheckpointError(
                f"{path}: cannot be restored: {_reason(error)}; was it saved from another spec?"
            ) from error
        if target is None:
            return jax.tree.map(_to_numpy, tree)
        for (name, asked), found in zip(
            jax.tree.leaves_with_path(target), jax.tree.leaves(tree), strict=True
        ):
            if hasattr(asked, "dtype") and _kind(asked) != _kind(found):
                raise CheckpointError(
                    f"{path}: {jax.tree_util.keystr(name)} holds {_kind(found)}, "
                    f"not {_kind(asked)}; was it saved from another spec?"
                )
        return tree

    def shapes(self, step: int) -> Any:
        """What a step holds, to make a target of for `restore`.

        A tree of dicts, in which arrays are jax.ShapeDtypeStruct without a sharding and strings are
        empty. Raises CheckpointError as `restore` does.
        """
        self.wait()
        path = self._path(step)
        if flaw := agreed(lambda: self._flaw(step)):
            raise CheckpointError(flaw)
        try:
            with _orbax() as orbax:
                tree = orbax.metadata(path).item_metadata.tree
        except Exception as error:
            raise CheckpointError(f"{path}: cannot be read: {_reason(error)}") from error
        return jax.tree.map(
            lambda leaf: (
                jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else ""
            ),
            tree,
        )

    def delete(self, step: int) -> None:
        """Removes a step, whole or not, so that it can be saved again."""
        self.wait()
        try:
            agreed(lambda: self._remove(step))
        except OSError as error:
            raise CheckpointError(
                f"{self._path(step)}: cannot be deleted: {_reason(error)}; remove it by hand"
            ) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Waits for the save under way and lets go of the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _make_room(self, step: int) -> None:
        if storage.exists(self._path(step)) and self._flaw(step) is None:
            raise CheckpointError(f"{self._path(step)}: already saved; delete it to save it again")
        try:
            self._remove(step)
        except OSError as error:
            raise self._failed(step, error) from error

    def _path(self, step: int) -> Place:
        return self.directory / str(step)

    def _listed(self) -> list[int]:
        names = storage.names(self.directory)
        return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))

    def _verifies(self, step: int) -> bool:
        if flaw := self._flaw(step):
            warnings.warn(flaw, stacklevel=3)
        return flaw is None

    def _flaw(self, step: int) -> str | None:
        """What is wrong with a step, as one line naming the file; None if it is whole."""
        try:
            manifest.verify(self._path(step), step)
        except UnreachableError:  # which says nothing of the step
            raise
        except (manifest.Flaw, OSError) as error:
            return (
                f"{self._path(step)}: {error}; this step does not count: "
                "go on from an earlier one, or compute it again"
            )
        return None

    def _seal(self, step: int, orbax: ocp.AsyncCheckpointer) -> None:
        # In a thread of its own, so that a step counts as soon as it is written, not when the next
        # is saved: a generation may take an hour.
        try:
            orbax.close()  # waits, and raises what went wrong
            if first():
                manifest.seal(self._path(step), step)
        except Exception as error:
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> SaveError:
        for pause in (0.0, 0.1, 1.0) if first() else ():  # what was written is of no use
            time.sleep(pause)
            try:
                self._remove(step)
                break
            except UnreachableError:
                break
            except OSError:  # a thread of Orbax's may still write there
                pass
        return SaveError(
            f"{self._path(step)}: could not be saved: {_reason(error)}; earlier steps are intact: "
            "set this right and run again"
        )

    def _remove(self, step: int) -> None:
        for path in (self._path(step), self.directory / f"{step}.orbax-checkpoint-tmp"):
            storage.remove(path)


def _orbax() -> ocp.AsyncCheckpointer:
    # Folders are made in the foreground (1 ms), so that a save which Orbax refuses leaves no thread
    # behind that would go on making them.
    return ocp.AsyncCheckpointer(
        ocp.PyTreeCheckpointHandler(),
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )


def _read_as_numpy(leaf) -> ocp.RestoreArgs:
    """How to read a leaf, given Orbax's metadata of it, when there is no target."""
    if not hasattr(leaf, "dtype"):
        return ocp.RestoreArgs()  # a string
    if leaf.dtype == np.uint32 and leaf.sharding is not None:
        # Perhaps a typed key, which Orbax makes typed again only on a device.
        return ocp.ArrayRestoreArgs(sharding=_one_device())
    return ocp.RestoreArgs(restore_type=np.ndarray)


def _read_as_target(leaf) -> ocp.RestoreArgs:
    """How to read a leaf, given the target's: with the stored shape and dtype, checked later."""
    if not hasattr(leaf, "dtype"):
        return ocp.RestoreArgs()
    if _is_key(leaf):
        return ocp.ArrayRestoreArgs(sharding=leaf.sharding or _one_device(), dtype=leaf.dtype)
    if leaf.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=leaf.sharding)


def _one_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _is_key(leaf) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf):
    return np.asarray(leaf) if isinstance(leaf, jax.Array) and not _is_key(leaf) else leaf


def _kind(leaf) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _reason(error: Exception) -> str:
    """One line: the operating system's words where it was the cause, else the error's own."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's way to say so
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _worth_printing(record: logging.LogRecord) -> bool:
    # Orbax tells of its steps at INFO, and prints the traceback of every thread that fails; the
    # failure itself reaches the caller as a CheckpointError.
    from_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
    return not from_orbax or (record.levelno >= logging.WARNING and not record.exc_info)


absl_logging.get_absl_logger().addFilter(_worth_printing)
