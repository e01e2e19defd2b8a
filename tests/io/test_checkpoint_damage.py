"""Damaged and hostile step folders: each is refused in words that name the bad file."""

import os
import random
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from synthjax.io import manifest
from synthjax.io.checkpoint import CheckpointError, Checkpoints
from synthjax.io.manifest import MANIFEST


@contextmanager
def within(seconds: float):
    """Fails where the body would hang."""

    def late(*_):
        pytest.fail(f"still busy after {seconds} s")  # no Exception, so nothing swallows it

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with steps 1 and 2, to copy from."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"a": np.arange(50.0) + step, "key": jax.random.key(step)})
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """Checkpoints of steps 1 and 2, to damage."""
    shutil.copytree(saved, tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        yield checkpoints


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def assert_bad(checkpoints: Checkpoints, *words: str):
    """Step 2 is refused, in one line that names the culprit, and step 1 stands in for it."""
    with within(20):
        with pytest.raises(CheckpointError) as refusal:
            checkpoints.restore(2)
        for ask, answer in ((checkpoints.steps, [1]), (checkpoints.latest, 1)):
            with pytest.warns(UserWarning) as warned:
                assert ask() == answer
            (warning,) = warned
            assert str(warning.message) == str(refusal.value)
    message = str(refusal.value)
    assert str(checkpoints.directory / "2") in message
    assert "\n" not in message
    for word in words:
        assert word in message


# Damage


def damage(folder: Path):
    """Every file of a step, one at a time; each is mended before the next."""
    for name in files(folder):
        content = (folder / name).read_bytes()
        yield name, folder / name, content
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)


def test_a_flipped_bit_in_any_file_is_found(run):
    rng = random.Random(0)
    seen = 0
    for name, path, content in damage(run.directory / "2"):
        for bit in rng.sample(range(8 * len(content)), 4):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(flipped)
            assert_bad(run, repr(name))
            seen += 1
    assert seen >= 4 * 10
    assert run.steps() == [1, 2]


def test_every_part_of_the_manifest_counts(run):
    path = run.directory / "2" / MANIFEST
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 29):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=MANIFEST):
            run.restore(2)


def test_a_truncated_file_is_found(run):
    for name, path, content in damage(run.directory / "2"):
        for keep in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:keep])
            assert_bad(run, repr(name), "truncated")


def test_a_longer_file_is_found(run):
    for name, path, content in damage(run.directory / "2"):
        path.write_bytes(content + b"\n")
        assert_bad(run, repr(name))
        os.truncate(path, 2**40)  # a sparse terabyte, which to hash would take an hour
        assert_bad(run, repr(name))


def test_a_missing_file_is_found(run):
    for name, path, _ in damage(run.directory / "2"):
        path.unlink()
        assert_bad(run, repr(name), "missing")


# Hostile folders


def test_a_foreign_file_makes_a_step_bad(run):
    (run.directory / "2" / "d" / "extra").write_bytes(b"")
    assert_bad(run, "'d/extra'")


def test_no_link_is_followed(run):
    step = run.directory / "2"
    outside = run.directory.parent / "outside"
    shutil.copytree(step, outside)
    for name in files(step):  # a link to the very same bytes
        path = step / name
        path.unlink()
        path.symlink_to(outside / name)
        assert_bad(run, repr(name), "not a plain file")
        path.unlink()
        shutil.copy(outside / name, path)
    for target in (outside, outside / "nowhere", Path("/dev/zero")):
        (step / "extra").symlink_to(target)
        assert_bad(run, "'extra'", "not a plain file")
        (step / "extra").unlink()
    shutil.rmtree(step / "d")
    (step / "d").symlink_to(outside / "d")
    assert_bad(run, "'d'", "not a plain file")
    shutil.rmtree(step)
    step.symlink_to(outside)
    assert_bad(run, "not a folder")


def test_a_fifo_does_not_hang(run):
    step = run.directory / "2"
    os.mkfifo(step / "extra")
    assert_bad(run, "'extra'", "not a plain file")
    (step / "extra").unlink()
    for name, path, _ in damage(step):
        path.unlink()
        os.mkfifo(path)
        assert_bad(run, repr(name), "not a plain file")
    shutil.rmtree(step)
    os.mkfifo(step)
    assert_bad(run, "not a folder")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"7" * 10_000,
        b"[" * 1_000_000,
        b'{"files": ' * 100_000,
        b'{"files": null}',
        b'{"files": {"a": []}}',
        b'{"files": {"a": {"bytes": 1e999, "sha256": ""}}}',
        b'{"files": {"a": {"bytes": NaN, "sha256": ""}}}',
        b'{"files": {}, "step": 2}',
        b'{"files": {}, "sha256": "", "step": 2}',
    ],
)
def test_a_manifest_may_hold_anything(run, content):
    (run.directory / "2" / MANIFEST).write_bytes(content)
    assert_bad(run, repr(MANIFEST))


def test_a_huge_manifest_is_not_read(run):
    os.truncate(run.directory / "2" / MANIFEST, 2**40)  # a sparse terabyte
    assert_bad(run, repr(MANIFEST), "limit")


@pytest.mark.parametrize("name", ["../1/_METADATA", "d/../../../fifo", "/etc/passwd", ".."])
def test_a_manifest_cannot_point_outside(run, name):
    os.mkfifo(run.directory.parent / "fifo")  # to read it would hang
    step = run.directory / "2"
    listed = manifest.read(step, 2, (step / MANIFEST).stat().st_size)
    (step / MANIFEST).write_bytes(manifest.text_of(2, listed | {name: (1, "0" * 64)}))
    assert_bad(run, repr(MANIFEST), repr(name), "outside")


def test_a_step_is_not_taken_for_another(run):
    shutil.rmtree(run.directory / "2")
    shutil.copytree(run.directory / "1", run.directory / "2")
    assert_bad(run, repr(MANIFEST), "another step")
