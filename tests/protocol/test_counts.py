"""A field of several counts by name: its values, its ways to and fro, its refusals."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from synthjax.protocol.spec import (
    SpecError,
    check_values,
    config_field,
    counts_field,
    describe,
    from_config,
    from_json,
    to_config,
    to_json,
)


@dataclasses.dataclass(frozen=True)
class Spec:
    n: int = config_field(1, "a number")
    mesh: Mapping[str, int] = counts_field({"data": -1, "tensor": 1}, "devices")
    sweep: Mapping[str, tuple] = config_field({}, "axes")

    def __post_init__(self):
        check_values(self)


def test_there_and_back():
    spec = Spec(mesh={"tensor": np.int64(2), "data": -1})
    assert spec.mesh == {"data": -1, "tensor": 2} and list(spec.mesh) == ["data", "tensor"]
    assert from_json(Spec, to_json(spec)) == from_config(Spec, to_config(spec)) == spec
    config = to_config(Spec())
    config.mesh.tensor = 4
    assert from_config(Spec, config).mesh == {"data": -1, "tensor": 4}
    assert Spec().mesh == {"data": -1, "tensor": 1}  # nobody changed the default


@pytest.mark.parametrize(
    "mesh, says",
    [
        ({"data": 0, "tensor": 1}, r"config.mesh.data = 0: must be an integer >= 1, or -1$"),
        ({"data": -2, "tensor": 1}, r"config.mesh.data = -2: must be an integer"),
        ({"data": True, "tensor": 1}, r"config.mesh.data = True: must be an integer"),
        ({"data": 2.0, "tensor": 1}, r"config.mesh.data = 2.0: must be an integer"),
        ({"data": 1}, r"config.mesh.tensor = None: must be an integer"),
        ({"data": 1, "fdsp": 1}, r"config.mesh.fdsp = 1: is no field; choices: data, tensor$"),
        (8, r"config.mesh = 8: must map data, tensor to integers$"),
    ],
)
def test_refused(mesh, says):
    with pytest.raises(SpecError, match=says):
        Spec(mesh=mesh)


def test_no_axis_and_described():
    with pytest.raises(SpecError, match=r"config.sweep.mesh = .*: is no field that can be swept"):
        Spec(sweep={"mesh": (1, 2)})
    assert "mesh.NAME, data=-1, tensor=1: devices (an integer >= 1, or -1" in describe(Spec)
