"""`launch.plan` on the devices that are here, and what it refuses."""

import json

import pytest
from eigen.tiny import TINY
from launched import Run, one_error

pytestmark = pytest.mark.slow
EIGEN = ["--config=configs/eigen.py:demo"] + [f"--config.{n}={v}" for n, v in TINY.items()]


def test_numbers_of_a_run(tmp_path):
    argv = [*EIGEN, f"--json={tmp_path / 'plan.json'}"]
    code, said, stderr = Run(argv, tmp_path / "said", module="launch.plan").end()
    assert code == 0, stderr
    assert "training step" in said and "decoding" in said
    step, decoding = json.loads((tmp_path / "plan.json").read_text())
    assert step["counts"]["examples"] == 8 and step["mesh"]["fsdp"] == 1
    for one in (step, decoding):
        assert one["arguments"] > 0 and one["temporaries"] > 0 and one["flops"] > 0
        assert 0.5 < one["flops"] * one["devices"] / one["model_flops"] < 3
    assert decoding["bounded"] or decoding["unknown"]  # it says that guesses may end


def test_no_search_for_a_mixture(tmp_path):
    argv = ["--config=configs/mixture.py:base", "--search"]
    code, _, stderr = Run(argv, tmp_path / "said", module="launch.plan").end()
    assert code == 2 and one_error(stderr).startswith("--search: has no meaning for a mixture")


@pytest.mark.parametrize(
    "more, says",
    [
        (["--config.mesh.fsdp=3"], "config.mesh.fsdp = 3: the mesh must share out the"),
        (["--topology=v5e:4x4"], "libtpu"),
        (["--task=foo"], "--task=foo: must be one of mixture, eigen, summarize"),
        (["--json="], "flag --json=: must name a file or folder, and is empty"),
        (["--topology=h100"], "h100: is no slice, such as v5e:4x4"),
    ],
)
def test_refused(tmp_path, more, says):
    code, _, stderr = Run([*EIGEN, *more], tmp_path / "said", module="launch.plan").end()
    assert code == 2 and says in one_error(stderr)
