"""Folders and files, on a disk and in a bucket."""

import hashlib
import importlib.util
import os
import time
from pathlib import Path

import numpy as np
import pytest
from gcsfs.retry import HttpError

from synthjax.io import manifest, results, storage
from synthjax.io.checkpoint import CheckpointError, Checkpoints
from synthjax.io.processes import FAILED, REFUSED, exit_code
from synthjax.io.storage import Growing, UnreachableError
from synthjax.io.workdir import Workdir, WorkdirError


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    """An empty folder, of either kind."""
    if request.param == "disk":
        return storage.place(tmp_path)
    request.getfixturevalue("bucket")
    return storage.place(f"gs://bucket/{tmp_path.name}")


def test_what_is_written_is_there_until_it_is_removed(folder):
    storage.make(folder / "a" / "b")
    storage.write(folder / "a" / "b" / "text", "wörds\n")
    storage.write(folder / "a" / "bytes", b"\x00" * 1000)
    assert storage.read(folder / "a" / "b" / "text").decode() == "wörds\n"
    assert storage.files(folder) == {"a/b/text": 7, "a/bytes": 1000}
    assert storage.names(folder) == ["a"]
    assert storage.names(folder / "a") == ["b", "bytes"]
    assert storage.names(folder / "none") == []
    assert storage.exists(folder / "a") and storage.exists(folder / "a" / "bytes")
    storage.write(folder / "a" / "bytes", b"other")
    found = storage.fingerprint(folder / "a" / "bytes", keep=True)
    assert found == hashlib.sha256(b"other").hexdigest()
    storage.remove(folder / "a" / "bytes")
    assert storage.files(folder) == {"a/b/text": 7}
    storage.remove(folder / "a")
    storage.remove(folder / "a")
    assert not storage.exists(folder / "a")


def test_what_is_not_there_is_an_oserror(folder):
    for attempt in (storage.read, storage.fingerprint):
        with pytest.raises(OSError):
            attempt(folder / "none")


def test_a_folder_of_this_machine_whose_files_get_there(folder):
    storage.make(folder / "a")
    storage.write(folder / "a" / "kept", "as it was")
    with storage.local(folder / "a") as here:
        (here / "inner").mkdir()
        (here / "inner" / "first").write_text("1")
        (here / "last").write_text("2")
    assert set(storage.files(folder)) == {"a/kept", "a/inner/first", "a/last"}
    assert storage.read(folder / "a" / "last") == b"2"


def test_a_block_that_fails_leaves_nothing_in_a_bucket(bucket):
    folder = storage.place("gs://bucket/failing")
    with pytest.raises(ZeroDivisionError), storage.local(folder) as here:
        (here / "half").write_text("1")
        raise ZeroDivisionError
    assert storage.files(folder) == {}


def test_a_text_grows_and_goes_on(folder):
    path = folder / "lines"
    for lines in (["1", "2"], ["3"]):
        growing = Growing(path)
        for line in lines:
            growing.write(line)
        growing.close()
    assert storage.read(path) == b"1\n2\n3\n"


def test_a_line_that_a_crash_tore_is_dropped(tmp_path):
    (tmp_path / "lines").write_bytes(b"1\n2")
    growing = Growing(tmp_path / "lines")
    growing.write("3")
    growing.close()
    assert (tmp_path / "lines").read_bytes() == b"1\n3\n"


def test_a_bucket_gets_lines_every_so_often(bucket, monkeypatch):
    path = storage.place("gs://bucket/often/lines")
    growing = Growing(path)
    growing.write("1")
    assert not storage.exists(path)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + Growing.EVERY + 1)
    growing.write("2")
    assert storage.read(path) == b"1\n2\n"


def test_another_process_may_change_what_is_in_a_bucket(bucket):
    """gcsfs keeps listings by default."""
    folder = storage.place("gs://bucket/changing")
    storage.write(folder / "one", "1")
    assert storage.names(folder) == ["one"]
    code = "from synthjax.io import storage; "
    code += "storage.write(storage.place('gs://bucket/changing/two'), '2')"
    os.spawnvp(os.P_WAIT, os.sys.executable, [os.sys.executable, "-c", code])
    assert storage.names(folder) == ["one", "two"]
    assert storage.files(folder) == {"one": 1, "two": 1}


@pytest.mark.parametrize(
    "bad",
    [
        "s3://bucket/run",
        "gs://",
        "gs://bucket",
        "gs:///run",
        "x://y/z",
        "gs://b/a*",
        "gs://b//",
        "",
    ],
)
def test_paths_that_cannot_be_used(bad):
    with pytest.raises(OSError, match="must be a folder, here or as gs://BUCKET/FOLDER"):
        storage.place(bad)
    with pytest.raises(WorkdirError, match="must be a folder"):
        Workdir(bad, {})
    with pytest.raises(CheckpointError, match="must be a folder"):
        Checkpoints(bad)
    assert not Path("gs:").exists()


def test_a_bucket_without_its_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkdirError, match=r"needs gcsfs: pip install -e '.\[gcs\]'"):
        Workdir("gs://bucket/run", {})


def test_a_bucket_that_is_not_there(bucket):
    with pytest.raises(WorkdirError, match=r"gs://nothing/run: cannot be used"):
        Workdir("gs://nothing/run", {"n": 1})


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "there").write_text("secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "there")
    with pytest.raises(OSError, match="'link' is not a plain file"):
        storage.files(tmp_path / "folder")
    (tmp_path / "other").symlink_to(tmp_path / "folder")
    with pytest.raises(OSError, match="is not a folder"):
        storage.files(tmp_path / "other")


def test_results_come_back_from_a_bucket(bucket):
    import xarray as xr

    path = storage.place("gs://bucket/results/results.nc")
    data = xr.Dataset({"a": ("t", [1.0, 2.0])})
    results.write(data, path)
    xr.testing.assert_identical(results.read(path), data)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError("gs://bucket/none"), REFUSED),
        (OSError("Forbidden: https://storage.googleapis.com/"), REFUSED),
        (TimeoutError(), FAILED),
        (ConnectionError("reset"), FAILED),
        (HttpError({"code": 429, "message": "slow down"}), FAILED),
        (HttpError({"code": 503, "message": ""}), FAILED),
    ],
)
def test_what_a_bucket_answers(error, code):
    with pytest.raises(OSError) as raised, storage._as_os_errors():
        raise error
    assert exit_code(raised.value) == code


def test_what_a_disk_answers_is_its_own(tmp_path):
    """Not a bucket's."""
    with pytest.raises(IsADirectoryError):
        storage.read(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        storage.names(tmp_path / "file")


def test_a_bucket_that_does_not_answer_says_nothing_of_a_step(tmp_path, monkeypatch):
    """Which is there as it was, and is not computed again."""

    def unreachable(*_):
        raise UnreachableError("503")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"a": np.ones(2)})
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(manifest, "verify", unreachable)
            for ask in (checkpoints.steps, checkpoints.latest, lambda: checkpoints.restore(3)):
                with pytest.raises(UnreachableError):
                    ask()
            with pytest.raises(UnreachableError):
                checkpoints.save(3, {"a": np.zeros(2)})
        np.testing.assert_array_equal(checkpoints.restore(3)["a"], np.ones(2))
