"""One mesh of three axes: what is computed on it is what one device computes."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from synthjax.nn import sharding
from synthjax.nn.sharding import LEFT
from synthjax.protocol.spec import SpecError

TESTS = Path(__file__).parents[1]


def ran(folder, meshes):
    """What a process with eight devices says of some meshes."""
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
    }
    script = str(TESTS / "nn" / "on_eight_devices.py")
    subprocess.run([sys.executable, script, str(folder), *meshes], env=env, check=True)
    return np.load(folder / "found.npz")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return ran(tmp_path_factory.mktemp("mixed"), ["mixed"])


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return ran(tmp_path_factory.mktemp("every"), ["data", "fsdp", "tensor"])


@pytest.fixture
def found(request, mesh):
    """By mesh; one of all three axes in `make test`, each axis alone in `make test-long`."""
    return request.getfixturevalue("mixed" if mesh == "mixed" else "every")


MESHES = pytest.mark.parametrize(
    "mesh",
    ["mixed", *(pytest.param(n, marks=pytest.mark.long) for n in ("data", "fsdp", "tensor"))],
)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["eigen", "summarize"])
@MESHES
def test_eight_devices_compute_what_one_does(found, task, mesh):
    """The first loss and gradient to rounding, 20 losses to 1e-5 (Adam amplifies it), guesses."""
    one, other = ({n: found[f"{task}/{m}/{n}"] for n in NAMES} for m in ("one", mesh))
    np.testing.assert_allclose(other["value"], one["value"], rtol=1e-6)
    size = np.abs(one["gradient"]).max()
    np.testing.assert_allclose(other["gradient"], one["gradient"], rtol=0, atol=2e-6 * size)
    assert len(one["losses"]) == 20 and one["losses"][-1] < 0.95 * one["losses"][0]
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_array_equal(other["tokens"], one["tokens"])


@pytest.mark.slow
@MESHES
def test_parameters_and_optimizer_are_split(found, mesh):
    """How much of both the first device holds: what no axis divides is small."""
    assert found["summarize/one/share"] == 1
    share, least = float(found[f"summarize/{mesh}/share"]), SHARES[mesh]
    assert least <= share < 1.1 * least + TABLES[mesh]


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX asks of a TPU when it makes a mesh."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    core_on_chip: int = 0
    process_index: int = 0


@pytest.mark.parametrize("shape", [(8, 1, 8), (2, 1, 32), (32, 1, 2), (4, 4, 4), (4, 1, 16)])
def test_any_mesh_of_a_torus(shape):
    """Each chip once; neighbours along `tensor`, which talk most, are near."""
    chips = [Chip(i, place) for i, place in enumerate(np.ndindex(4, 4, 4))]
    found = sharding.mesh(dict(zip(sharding.AXES, shape, strict=True)), chips).devices
    assert found.shape == shape and len({chip.id for chip in found.flat}) == 64
    places = np.array([chip.coords for chip in found.flat]).reshape(*shape, 3)
    away = np.abs(np.diff(places, axis=2)).sum(-1)
    assert np.median(away) == 1 and away.mean() < 2


def test_what_is_left_goes_to_one_axis():
    for sizes, shape in (
        ({}, (8, 1, 1)),
        ({"tensor": 2}, (4, 1, 2)),
        ({"data": 2, "fsdp": -1, "tensor": 2}, (2, 2, 2)),
        ({"data": 1, "tensor": -1}, (1, 1, 8)),
        ({"data": 4, "fsdp": 2}, (4, 2, 1)),
        ({"fsdp": -1, "tensor": 2}, (1, 4, 2)),
    ):
        assert sharding.shape_of({**LEFT, **sizes}, 8) == shape


@pytest.mark.parametrize(
    "sizes, path, choices",
    [
        ({"fsdp": 3}, "fsdp", "1, 2, 4, 8"),
        ({"fsdp": 3, "tensor": 4}, "tensor", "no number of devices"),
        ({"fsdp": 3, "tensor": 2}, "fsdp", "1, 2, 4"),
        ({"data": 3}, "data", "8"),
        ({"data": 2, "tensor": 2}, "data", "4"),
        ({"data": 16, "tensor": -1}, "data", "1, 2, 4, 8"),
        ({"fsdp": -1, "tensor": -1}, "tensor", "give one a number"),
    ],
)
def test_a_mesh_that_does_not_fit(sizes, path, choices):
    with pytest.raises(SpecError, match=rf"config\.mesh\.{path} = .*{choices}"):
        sharding.shape_of({**LEFT, **sizes}, 8)


def test_without_a_mesh_activations_stay_as_they_are():
    x = np.zeros((4, 2))
    assert sharding.constrain(x, "rows", "hidden") is x


def test_rows_here_are_all_where_there_is_one_process():
    mesh = sharding.mesh()
    np.testing.assert_array_equal(sharding.rows_here(mesh, 8), np.arange(8))


NAMES = ("value", "gradient", "losses", "tokens")
SHARES = {"data": 1, "fsdp": 1 / 8, "tensor": 1 / 8, "mixed": 1 / 4}
# The symbols' table, which eight devices along `tensor` do not divide: 300 rows of 32, of 17 k.
TABLES = {"data": 0, "fsdp": 0, "tensor": 0.55, "mixed": 0}
