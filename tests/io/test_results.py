import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import synthjax
from synthjax.io import results
from synthjax.io.workdir import WorkdirError


def dataset(seed: int, size: int = 20_000) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((3, size)).astype(np.float32)
    values[0, 0] = np.nan
    return xr.Dataset(
        {
            "accuracy": (("verifier", "trajectory"), values, {"units": "1", "long_name": "φ"}),
            "status": (
                ("verifier", "trajectory"),
                rng.integers(0, 4, (3, size)).astype(np.int8),
                {"flag_values": np.arange(4, dtype=np.int8), "flag_meanings": "a b c d"},
            ),
        },
        {"verifier": ["none", "oracle", "φ"], "trajectory": np.arange(size)},
        {"spec": '{"n": 1}'},
    )


def test_there_and_back(tmp_path):
    path = tmp_path / "results.nc"
    results.write(dataset(0), path)
    found = results.read(path)
    assert found.identical(dataset(0))
    assert found.accuracy.dtype == np.float32
    assert found.status.dtype == found.status.attrs["flag_values"].dtype == np.int8
    assert [path.name for path in tmp_path.iterdir()] == ["results.nc"]
    path.unlink()
    assert found.accuracy.shape == (3, 20_000)  # read into memory, not opened


def test_the_same_data_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        results.write(dataset(0), tmp_path / name)
    results.write(dataset(1), tmp_path / "c")
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_written_over(tmp_path):
    path = tmp_path / "results.nc"
    for seed in (0, 1):
        results.write(dataset(seed), path)
    assert results.read(path).identical(dataset(1))


FAILING = """
import resource, sys
from pathlib import Path
import xarray as xr
from synthjax.io import results
from synthjax.io.workdir import WorkdirError

path, other, room = Path(sys.argv[1]), xr.load_dataset(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    results.write(other, path)
except WorkdirError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 50_000])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, room):
    """And nothing beside it, which would only fill the disk further, nor more than an error.

    In a process of its own: HDF5, where it cannot write, has brought down the whole process.
    """
    path, other = tmp_path / "run" / "results.nc", tmp_path / "other.nc"
    path.parent.mkdir()
    results.write(dataset(0), path)
    results.write(dataset(1), other)
    before = path.read_bytes()
    assert len(before) > 200_000
    done = subprocess.run(
        [sys.executable, "-c", FAILING, path, other, str(room)],
        cwd=Path(synthjax.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path}: could not be written (")
    assert "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert path.read_bytes() == before
    assert [path.name for path in path.parent.iterdir()] == ["results.nc"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(WorkdirError, match=r"results\.nc: could not be written \(No such file"):
        results.write(dataset(0, 10), tmp_path / "nowhere" / "results.nc")


def test_a_folder_in_the_way(tmp_path):
    path = tmp_path / "results.nc"
    path.mkdir()
    with pytest.raises(WorkdirError, match="Is a directory"):
        results.write(dataset(0, 10), path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.nc"]
