import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.io import manifest
from synthjax.io.checkpoint import CheckpointError, Checkpoints
from synthjax.io.manifest import MANIFEST

ROOT = Path(__file__).parents[2]


def state(step: int) -> dict:
    """What step number `step` holds, a function of the number alone."""
    rng = np.random.default_rng(step)
    return {
        "weights": rng.standard_normal((40, 7)).astype(np.float32),
        "counts": rng.integers(0, 2**40, 5),
        "nested": {"half": jnp.asarray(rng.standard_normal(3), jnp.bfloat16), "done": True},
        "key": jax.random.key(step),
        "keys": jax.random.split(jax.random.key(step, impl="rbg"), 3),
    }


def raw(leaf) -> tuple:
    if isinstance(leaf, str):
        return (leaf,)
    if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (str(jax.random.key_impl(leaf)), np.asarray(jax.random.key_data(leaf)).tobytes())
    leaf = np.asarray(leaf)
    return (str(leaf.dtype), leaf.shape, leaf.tobytes())


def same(a, b) -> bool:
    """Bitwise equal, dtypes and shapes included."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        raw(x) == raw(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def python(script: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def run(tmp_path):
    """Checkpoints that hold steps 1 and 2."""
    with Checkpoints(tmp_path / "run") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
        checkpoints.wait()
        yield checkpoints


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# Round trips


def test_a_tree_comes_back_bit_for_bit(tmp_path):
    tree = state(3) | {
        "text": "spectrum",
        "pair": (np.float64(0.1), [jnp.arange(3)]),
        "raw_key": jax.random.key_data(jax.random.key(1)),
        "nothing": None,
    }
    with Checkpoints(tmp_path / "deep" / "run") as checkpoints:
        checkpoints.save(0, tree)
        back = checkpoints.restore(0)
    tree["pair"] = list(tree["pair"])  # Orbax knows no tuples
    assert same(back, tree)
    assert isinstance(back["weights"], np.ndarray)
    assert isinstance(back["nested"]["half"], np.ndarray)
    assert isinstance(back["raw_key"], np.ndarray)
    assert files(tmp_path / "deep" / "run" / "0") == sorted(
        [MANIFEST, *json.loads((tmp_path / "deep" / "run" / "0" / MANIFEST).read_text())["files"]]
    )


class Pair(NamedTuple):
    weights: jax.Array
    key: jax.Array


def test_a_target_gives_the_tree_its_structure(tmp_path):
    tree = Pair(jnp.arange(6.0).reshape(2, 3), jax.random.split(jax.random.key(4), 2))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, tree)
        target = Pair(
            jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((2,), tree.key.dtype)
        )
        back = checkpoints.restore(0, target)
        assert isinstance(back, Pair)
        assert isinstance(back.weights, np.ndarray)
        assert same(back, tree)
        wrong = (
            (target._replace(weights=jax.ShapeDtypeStruct((2, 4), jnp.float32)), ".weights"),
            (target._replace(weights=jax.ShapeDtypeStruct((2, 3), jnp.int32)), "float32[2, 3]"),
            (target._replace(key=jax.ShapeDtypeStruct((3,), tree.key.dtype)), ".key"),
            (
                target._replace(
                    key=jax.ShapeDtypeStruct((2,), jax.random.key(0, impl="rbg").dtype)
                ),
                "rbg",
            ),
            ({"weights": target.weights}, "key"),
        )
        for bad, word in wrong:
            with pytest.raises(CheckpointError) as refusal:
                checkpoints.restore(0, bad)
            assert word in str(refusal.value)
            assert "another spec" in str(refusal.value)
            assert "\n" not in str(refusal.value)


def test_what_is_saved_is_what_was_there_when_save_was_called(tmp_path):
    ours = np.zeros(2_000_000)
    theirs = jnp.zeros(2_000_000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"ours": ours, "theirs": theirs})
        ours += 1
        jax.jit(lambda x: x + 1, donate_argnums=0)(theirs).block_until_ready()
        back = checkpoints.restore(0)
    assert not back["ours"].any()
    assert not back["theirs"].any()


RESHARD = """
import sys, jax, numpy as np
devices = int(sys.argv[2])
jax.config.update("jax_num_cpu_devices", devices)
from jax.sharding import NamedSharding, PartitionSpec
from synthjax.io.checkpoint import Checkpoints
assert jax.device_count() == devices
mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
values = np.arange(24.0, dtype=np.float32).reshape(12, 2)
tree = {"w": jax.device_put(values, split), "key": jax.device_put(jax.random.key(5), whole)}
with Checkpoints(sys.argv[1]) as checkpoints:
    if devices == 4:
        checkpoints.save(0, tree)
    else:
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
        for back in (checkpoints.restore(0, target), checkpoints.restore(0)):
            assert (np.asarray(back["w"]) == values).all()
            data = [jax.random.key_data(t["key"]).tolist() for t in (back, tree)]
            assert data[0] == data[1], data
            if isinstance(back["w"], jax.Array):
                assert back["w"].sharding == split
                assert [s.data.shape for s in back["w"].addressable_shards] == [(6, 2)] * 2
                print("resharded")
"""


def test_shapes_make_a_target(tmp_path):
    """Of a tree whose shapes nobody knows any more: a part asked for otherwise, the rest as is."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"rows": np.arange(6).reshape(3, 2), "w": jnp.ones(4), "of": "abc"})
        target = checkpoints.shapes(0)
        assert target["rows"].shape == (3, 2) and target["rows"].dtype == np.int64
        assert target["of"] == ""
        place = jax.sharding.SingleDeviceSharding(jax.devices()[-1])
        target["w"] = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=place)
        found = checkpoints.restore(0, target)
        assert isinstance(found["rows"], np.ndarray) and found["rows"].tolist()[2] == [4, 5]
        assert found["w"].devices() == {jax.devices()[-1]} and found["of"] == "abc"
        with pytest.raises(CheckpointError):
            checkpoints.shapes(1)


def test_restore_onto_other_devices(tmp_path):
    for devices in (4, 2):
        done = python(RESHARD, tmp_path, devices)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "resharded\n"
    assert done.stderr == ""


def test_saving_a_megabyte_blocks_little(tmp_path):
    rng = np.random.default_rng(0)
    tree = {str(i): rng.standard_normal((80, 100)).astype(np.float32) for i in range(32)}
    blocked = []
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(5):
            start = time.perf_counter()
            checkpoints.save(step, tree)
            blocked.append(time.perf_counter() - start)
            checkpoints.wait()
    assert min(blocked) < 0.1  # 0.02 s on two cores


# What counts as a step


def test_steps_are_numbers_and_nothing_else(run):
    for name in ("notes", "07", "-1", "3.orbax-checkpoint-tmp", "٣"):
        (run.directory / name).mkdir()
    (run.directory / "readme.txt").write_text("12")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.steps() == [1, 2]
        assert run.latest() == 2


def test_no_steps(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.latest() is None
        with pytest.raises(CheckpointError, match="7"):
            checkpoints.restore(7)


def test_steps_are_ordered_by_number(tmp_path):
    for step in (2, 10, 9):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(step, {"a": np.ones(1)})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 9, 10]
        assert checkpoints.latest() == 10


def test_latest_reads_no_older_step(run):
    (run.directory / "1" / MANIFEST).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.latest() == 2


def test_a_step_is_sealed_without_being_asked_for(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
        deadline = time.monotonic() + 20
        while not (tmp_path / "1" / MANIFEST).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_manifest_comes_last_and_stays(tmp_path, monkeypatch):
    """A power cut keeps what was synced, in that order: all files, then the manifest."""
    events = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def spy_replace(path, target):
        events.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
    step = tmp_path / "1"
    data = {str(step / name) for name in files(step)} - {str(step / MANIFEST)}
    folders = {str(p) for p in (tmp_path, step, *step.rglob("*")) if p.is_dir()}
    cut = len(events) - 1 - events[::-1].index("replace")
    assert set(events[:cut]) >= data | folders
    assert events[cut - 1 :] == [f"{step / MANIFEST}.partial", "replace", str(step)]


def test_a_whole_step_is_not_overwritten_but_may_be_deleted(run):
    with pytest.raises(CheckpointError, match="already saved"):
        run.save(2, state(5))
    assert same(run.restore(2), state(2))
    run.delete(2)
    assert run.steps() == [1]
    run.save(2, state(5))
    assert same(run.restore(2), state(5))


def test_a_bad_step_may_be_saved_again(run):
    (run.directory / "2" / MANIFEST).unlink()
    (run.directory / "3.orbax-checkpoint-tmp").mkdir()  # a save cut short
    (run.directory / "3.orbax-checkpoint-tmp" / "rest").write_text("of a crash")
    (run.directory / "4").symlink_to(run.directory / "1")
    for step in (2, 3, 4):
        run.save(step, state(step + 10))
    assert run.steps() == [1, 2, 3, 4]
    for step in (2, 3, 4):
        assert same(run.restore(step), state(step + 10))
    assert same(run.restore(1), state(1))
    assert sorted(os.listdir(run.directory)) == ["1", "2", "3", "4"]


# Disks that refuse


FULL = """
import resource, sys, warnings
import absl.logging
import numpy as np
from synthjax.io.checkpoint import CheckpointError, Checkpoints

absl.logging.set_verbosity(absl.logging.INFO)
warnings.simplefilter("error")
big = lambda s: {"a": np.random.default_rng(s).standard_normal(50_000)}
small = lambda s: {"a": np.full(2, s)}

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def refused(step, call, *arguments):
    try:
        call(*arguments)
    except CheckpointError as error:
        text = str(error)
        assert f"{checkpoints.directory}/{step}:" in text, text
        assert "File too large" in text, text
        assert "\\n" not in text, text
    else:
        raise AssertionError(f"{call} went well")

with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, big(1))
    checkpoints.wait()
    # Orbax's data do not fit; its folder does not; only the manifest does not.
    for size, tree in ((100_000, big), (20, small), (900, small)):
        limit(size)
        try:
            checkpoints.save(2, tree(2))
        except CheckpointError:
            assert size == 20
            refused(2, checkpoints.save, 2, tree(2))
        else:
            refused(2, checkpoints.save, 3, tree(3))
            checkpoints.save(2, tree(2))
            refused(2, checkpoints.wait)
        checkpoints.wait()  # told once
        limit(resource.RLIM_INFINITY)
        assert checkpoints.steps() == [1], checkpoints.steps()
        assert (checkpoints.restore(1)["a"] == big(1)["a"]).all()
    checkpoints.save(2, big(2))
    assert checkpoints.steps() == [1, 2]
    assert (checkpoints.restore(2)["a"] == big(2)["a"]).all()
print("done")
"""


def test_a_full_disk_is_told_before_the_next_save_and_loses_nothing(tmp_path):
    done = python(FULL, tmp_path)
    assert done.stderr == ""
    assert done.stdout == "done\n"
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_leaving_tells_of_a_failed_save(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "seal", full)
    with (
        pytest.raises(CheckpointError, match="No space left on device"),
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(1, state(1))
    assert os.listdir(tmp_path) == []


def test_what_orbax_refuses_is_told_at_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(5):
            with pytest.raises(CheckpointError, match="zero size"):
                checkpoints.save(step, {"a": np.zeros((0, 3))})
            time.sleep(0.05)  # a thread that Orbax had left behind would now make its folder
            assert sorted(os.listdir(tmp_path)) == [str(s) for s in range(step)]
            checkpoints.save(step, {"a": np.ones(3)})
            checkpoints.wait()
        assert checkpoints.steps() == [0, 1, 2, 3, 4]


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    existing = "/proc/self"
    for path in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run", "/sys/run", existing):
        with pytest.raises(CheckpointError) as refusal:
            Checkpoints(path)
        assert str(refusal.value).startswith(f"{path}: cannot hold checkpoints: ")
        assert "\n" not in str(refusal.value)


# Crashes


LOOP = """
import sys
sys.path.insert(0, "tests/io")
from test_checkpoint import Checkpoints, same, state

with Checkpoints(sys.argv[1]) as checkpoints:
    start = checkpoints.latest()
    start = -1 if start is None else start
    assert start < 0 or same(checkpoints.restore(start), state(start))
    state(0)  # compiled before the clock starts
    print("from", start, flush=True)
    for step in range(start + 1, 10_000):
        checkpoints.save(step, state(step))
        print("sealed", step - 1, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """No step said to be sealed is ever lost, and none that counts is wrong."""
    rng = random.Random(3)
    folder = tmp_path / "run"
    sealed, total = -1, 0
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        lines = [child.stdout.readline() for _ in range(1 + rng.randrange(5))]
        time.sleep(rng.uniform(0, 0.1))  # somewhere in the two or three saves that follow
        child.kill()
        lines += child.stdout.readlines()
        assert child.wait() == -signal.SIGKILL
        told = [int(line.split()[1]) for line in lines if line.endswith("\n")]
        assert told[0] >= sealed  # where it went on from
        sealed = told[-1]
        with Checkpoints(folder) as checkpoints, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the step that the kill left unsealed
            steps = checkpoints.steps()
            assert steps in (list(range(sealed + 1)), list(range(sealed + 2)))
            for step in steps[total:]:
                assert same(checkpoints.restore(step), state(step))
            total = len(steps)
    assert total >= 8
