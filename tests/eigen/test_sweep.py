"""Whole runs of a tiny model: results, what a workdir accepts, models in and out."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
import xarray as xr
from eigen.tiny import tiny
from jax.sharding import AxisType

from synthjax import eigen
from synthjax.eigen import dataset
from synthjax.io import results as io
from synthjax.io.tensors import ModelError
from synthjax.io.workdir import WorkdirError
from synthjax.nn import sharding
from synthjax.protocol.spec import SpecError

SWEEP = {"verifier": ("none", "noisy"), "psi": (0.2, 0.5)}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Three elements that share a first generator: the workdir and the results."""
    folder = tmp_path_factory.mktemp("swept") / "run"
    return folder, eigen.run(tiny(sweep=SWEEP), folder)


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    for name in dataset.VARIABLES:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_results(swept):
    folder, results = swept
    assert results.sizes == {
        "verifier": 2,
        "psi": 2,
        "generation": 3,
        "tolerance": 4,
        "decoding": 3,
        "test_spectrum": 7,
    }
    assert results.equals(io.read(folder / "results.nc"))
    assert results.accuracy.dims == ("verifier", "psi", "generation", "tolerance", "decoding")
    assert all(results[name].attrs["long_name"] for name in results.variables)
    assert json.loads(results.attrs["spec"])["sweep"] == {k: list(v) for k, v in SWEEP.items()}
    # What trained model 0 was real: no rates; and none is missing later.
    rates = results[["p_hat", "phi_hat_low", "kept", "examples"]]
    assert all(rates[name].sel(generation=0).isnull().all() for name in rates)
    assert results.kept.sel(generation=[1, 2]).notnull().all()
    assert (results.kept.sel(verifier="none", generation=1) == 1).all()
    assert (results.examples.sel(verifier="none", generation=1) == 40).all()
    np.testing.assert_array_equal(*results.loss.sel(verifier="none"))  # ψ is nothing to it
    assert (results.loss.sel(generation=0) == results.loss[0, 0, 0]).all()
    noisy = results.sel(verifier="noisy", generation=1)
    assert noisy.kept.sel(psi=0.2) < noisy.kept.sel(psi=0.5)


def test_what_is_left_in_the_workdir(swept):
    folder, _ = swept
    elements = {"verifier=none", "verifier=noisy,psi=0.2", "verifier=noisy,psi=0.5"}
    for place in ("checkpoints", "models"):
        assert {path.name for path in (folder / place).iterdir()} == elements | {"first"}
    assert {path.name for path in (folder / "checkpoints/verifier=none").iterdir()} == set("012")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["element"] for line in lines} == elements | {"first"}


def test_an_element_alone_is_the_same(swept):
    alone = eigen.run(tiny(verifier="noisy", psi=0.2))
    same(alone, swept[1].sel(verifier="noisy", psi=0.2))


def test_a_finished_run_again(swept):
    folder, results = swept
    lines = (folder / "metrics.jsonl").read_bytes()
    same(eigen.run(tiny(sweep=SWEEP), folder), results)
    assert (folder / "metrics.jsonl").read_bytes() == lines


@pytest.mark.slow
def test_more_generations_and_values(swept, tmp_path):
    """Only what is new is computed, and it is what a run from the beginning computes."""
    folder = tmp_path / "run"
    eigen.run(tiny(generations=1, sweep={"verifier": ("noisy",), "psi": (0.5,)}), folder)
    before = (folder / "metrics.jsonl").read_text()
    same(eigen.run(tiny(sweep=SWEEP, save_steps=3), folder), swept[1])
    new = (folder / "metrics.jsonl").read_text().removeprefix(before)
    lines = [json.loads(line) for line in new.splitlines()]
    assert {line["generation"] for line in lines if "psi=0.5" in line["element"]} == {2}
    assert "first" not in {line["element"] for line in lines}


@pytest.mark.parametrize(
    "changes", [dict(generations=1), dict(seed=1), dict(sweep={"verifier": ("none",)})]
)
def test_another_spec_in_a_used_workdir(swept, changes):
    with pytest.raises(WorkdirError, match="another spec"):
        eigen.run(tiny(**{"sweep": SWEEP, **changes}), swept[0])


@pytest.mark.slow
def test_from_a_model_in_a_folder(swept):
    """The first generator read back: the same guesses, training and numbers."""
    found = eigen.run(
        tiny(
            initial="checkpoint",
            generator_model=str(swept[0] / "models" / "first"),
            n_real=200_000,  # the defaults: neither is read
            steps=10_000,
        )
    )
    same(found, swept[1].sel(verifier="none", psi=0.5))


def test_a_model_of_another_architecture_is_refused(swept):
    folder = str(swept[0] / "models" / "first")
    fields = dict(initial="checkpoint", generator_model=folder, n_real=200_000, steps=10_000)
    with pytest.raises(SpecError, match=r"config.generator_model.*has width=8, and this spec 16"):
        eigen.run(tiny(width=16, **fields))
    with pytest.raises(SpecError, match="has encoding='P10', and this spec 'P1000'"):
        eigen.estimate(tiny(encoding="P1000", **fields))


@pytest.mark.slow
@pytest.mark.long
def test_another_model_may_verify_whatever_its_architecture(swept):
    folder = str(swept[0] / "models" / "verifier=none")
    found = eigen.run(
        tiny(
            width=12,
            encoding="P1000",
            generations=1,
            verifier="ranked_model",
            k=3,
            keep=0.5,
            verifier_model=folder,
        )
    )
    assert float(found.kept[1]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "changes, says", [(dict(size_max=3), "smaller matrices"), (dict(bound=1e4), "smaller numbers")]
)
def test_another_model_that_cannot_read_the_matrices(swept, changes, says):
    folder = str(swept[0] / "models" / "first")
    with pytest.raises(SpecError, match=says):
        eigen.run(tiny(verifier="model", verifier_model=folder, **changes))


@pytest.mark.parametrize("harm", ["gone", "link", "no_json", "list", "fields", "shapes", "cut"])
def test_a_folder_that_is_no_model(swept, tmp_path, harm):
    folder = shutil.copytree(swept[0] / "models" / "first", tmp_path / "model")
    config, weights = folder / "config.json", folder / "model.safetensors"
    if harm == "gone":
        weights.unlink()
    elif harm == "link":
        weights.rename(tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", weights)
    elif harm == "no_json":
        config.write_text("{")
    elif harm == "list":
        config.write_text("[1]")
    elif harm == "fields":
        config.write_text('{"architecture": {"layers": 3}}')
    elif harm == "shapes":
        config.write_text(config.read_text().replace('"width": 8', '"width": 16'))
    else:
        weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ModelError) as error:
        eigen.load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_model_is_what_was_saved(swept):
    language, params = eigen.load(swept[0] / "models" / "verifier=none")
    assert language.encoding == "P10" and language.architecture == tiny().architecture
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))


def test_a_batch_that_does_not_fit_the_devices():
    with pytest.raises(SpecError, match=r"config.batch = 9: must be a multiple of the \d+ dev"):
        eigen.run(tiny(batch=9))
    with pytest.raises(SpecError, match=r"config.sweep.batch"):
        eigen.estimate(tiny(sweep={"batch": (8, 9)}))


@pytest.mark.slow
@pytest.mark.long
def test_on_one_device_the_same_to_rounding(swept, monkeypatch):
    one = jax.make_mesh(
        (1, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1]
    )
    monkeypatch.setattr(sharding, "mesh", lambda sizes: one)
    alone = eigen.run(tiny(generations=1, steps=2, n=10))
    monkeypatch.undo()
    several = eigen.run(tiny(generations=1, steps=2, n=10))
    np.testing.assert_allclose(alone.loss, several.loss, rtol=1e-4)


@pytest.mark.slow
def test_every_regime_and_start_runs():
    found = eigen.run(tiny(start="generator", sweep={"regime": ("accumulate", "subsample", "mix")}))
    assert found.loss.notnull().all() and (found.status == 0).all()
    sizes = found.examples.isel(generation=slice(1, None))
    assert sizes.sel(regime="accumulate").values.tolist() == [64 + 40, 64 + 80]
    assert sizes.sel(regime="subsample").values.tolist() == [20, 20]
    assert sizes.sel(regime="mix").values.tolist() == [30, 30]


def smallest(key, numbers, guesses):
    """The smaller the sum of the answer, the better."""
    return -guesses.values.sum(-1)


@pytest.mark.slow
def test_a_verifier_of_ones_own():
    """Passed or registered; a fraction of what it ranks is kept; what it reads is checked."""
    name = eigen.register(smallest, "least", reads=("keep",))
    found = eigen.run(tiny(verifier=name, keep=0.25, generations=1))
    assert float(found.kept[1]) == 0.25
    with pytest.raises(SpecError, match="keep"):
        tiny(verifier="none", keep=0.25)
    assert tiny(verifier=smallest).verifier == "least"  # it has that name already
    with pytest.raises(SpecError, match="is synthjax's own"):
        eigen.register(smallest, "oracle")
    with pytest.raises(SpecError, match="which is no field"):
        eigen.register(smallest, "other", reads=("kepp",))


@pytest.mark.slow
@pytest.mark.long
def test_mixed_sizes_and_other_kinds():
    found = eigen.run(
        tiny(
            size_max=3,
            encoding="FP15",
            generator="beam",
            selection="best_of_k",
            verifier="ranked_residual",
            spectrum="laplace",
            average=0.5,
            accumulate=2,
            generations=1,
        )
    )
    assert found.loss.notnull().all() and float(found.kept[1]) == 0.5
