"""What results.nc promises (issue 2, section 2), on small sweeps in memory."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from synthjax import mixture
from synthjax.io import results
from synthjax.mixture import Spec
from synthjax.mixture.theory import breakdown_point
from synthjax.protocol.spec import fields_of, from_json

pytestmark = pytest.mark.slow  # half a minute of compilation

RATES = ("p_hat", "phi_hat", "psi_hat", "p_star_hat")
MEASURED = [rate + suffix for rate in RATES for suffix in ("", "_low", "_high")]
BY_TRAJECTORY = ["accuracy", "test_accuracy", "overlap", "verifier_overlap", "norm", *MEASURED]
BY_TRAJECTORY += ["kept", "products", "status"]
THEORY = ["population_accuracy", "p_star", "evolution_accuracy"]

SMALL = {"n": 60, "d": 4, "generations": 2, "trajectories": 3, "learner": "ridge"}
SPECS = {
    "one point": Spec(**SMALL),
    "numbers": Spec(
        **SMALL, verifier="noisy", generator="flip", sweep={"psi": (0.0, 0.5), "p": (0.1, 0.4, 0.7)}
    ),
    "kinds": Spec(
        **SMALL | {"learner": "logistic"},
        sweep={"verifier": ("none", "oracle", "linear"), "theta_gen": (0.5, 1.0)},
    ),
    "sizes": Spec(**SMALL, sweep={"n": (30, 60), "seed": (3, 2**32 - 1)}),
    "classifiers": Spec(**SMALL, keep_classifiers=True, sweep={"theta_gen": (0.5, 1.0)}),
    "nothing kept": Spec(**SMALL, generator="flip", verifier="oracle", sweep={"p": (0.5, 1.0)}),
}


@pytest.fixture(scope="module")
def ran():
    return {name: mixture.run(spec) for name, spec in SPECS.items()}


@pytest.fixture(params=SPECS)
def case(request, ran):
    return SPECS[request.param], ran[request.param]


def test_dimensions(case):
    """The swept fields in the order of the spec's fields, then trajectory, then generation."""
    spec, found = case
    swept = tuple(name for name in fields_of(Spec) if name in spec.sweep)
    assert tuple(spec.sweep) == swept
    for name in BY_TRAJECTORY:
        assert found[name].dims == (*swept, "trajectory", "generation"), name
    for name in THEORY:
        assert found[name].dims == (*swept, "generation"), name
    sizes = {name: len(values) for name, values in spec.sweep.items()}
    sizes |= {"trajectory": spec.trajectories, "generation": spec.generations + 1}
    assert dict(found.sizes) == sizes | ({"feature": spec.d} if spec.keep_classifiers else {})


def test_variables_and_their_types(case):
    spec, found = case
    more = ["classifier"] if spec.keep_classifiers else []
    assert sorted(found.data_vars) == sorted([*BY_TRAJECTORY, *THEORY, *more])
    for name, variable in found.data_vars.items():
        counted = {"status": np.int8, "products": np.int32}
        assert variable.dtype == counted.get(name, np.float32), name
    if more:
        dims = ("trajectory", "generation", "feature")
        assert found.classifier.dims == (*spec.sweep, *dims)


def test_coordinates_are_the_values_of_the_spec(case):
    spec, found = case
    assert set(found.coords) == {*spec.sweep, "trajectory", "generation"}
    for name, values in spec.sweep.items():
        assert found[name].values.tolist() == list(values)
    assert found.generation.values.tolist() == list(range(spec.generations + 1))
    assert found.trajectory.values.tolist() == list(range(spec.trajectories))


def test_everything_has_a_unit_and_a_name(case):
    spec, found = case
    for name in (*found.data_vars, *found.coords):
        attributes = found[name].attrs
        assert attributes["units"], name
        assert attributes["long_name"], name
    for name in spec.sweep:
        assert found[name].attrs["units"] == ("rad" if name.startswith("theta") else "1")
    names = [found[name].attrs["long_name"] for name in found.data_vars]
    assert len(set(names)) == len(names)


def test_status_is_a_cf_flag(case):
    _, found = case
    attributes = found.status.attrs
    assert attributes["flag_values"].dtype == found.status.dtype == np.int8
    meanings = dict(
        zip(attributes["flag_values"].tolist(), attributes["flag_meanings"].split(), strict=True)
    )
    assert meanings == {0: "fine", 1: "not_finite", 2: "not_converged", 3: "nothing_kept"}
    assert set(np.unique(found.status)) <= set(meanings)


def test_the_spec_comes_back(case):
    spec, found = case
    assert from_json(Spec, found.attrs["spec"]) == spec
    assert json.loads(found.attrs["spec"])["sweep"].keys() == spec.sweep.keys()


def test_nothing_is_measured_at_generation_0(case):
    """There were no guesses yet; from 1 on there are, and rates lie within their intervals."""
    _, found = case
    first, later = found.isel(generation=0), found.isel(generation=slice(1, None))
    for name in (*MEASURED, "kept"):
        assert first[name].isnull().all(), name
    alive = later.status.shift(generation=1, fill_value=0) != 3
    assert later.p_hat.where(alive, 0).notnull().all()
    for rate in RATES:
        low, at, high = (later[rate + suffix] for suffix in ("_low", "", "_high"))
        assert ((low <= at) & (at <= high) | at.isnull()).all()
        assert ((at >= 0) & (at <= 1) | at.isnull()).all()
        if rate != "p_star_hat":
            assert (low < high).where(at.notnull(), True).all()
    assert ((later.kept >= 0) & (later.kept <= 1) | ~alive).all()


def test_rates_are_whole_counts_that_agree(case):
    """kept = (1 − p) φ + p ψ, exactly, of n guesses; and p* = 1/(1 + ψ/φ)."""
    spec, found = case
    later = found.isel(generation=slice(1, None))
    n = later.n if "n" in spec.sweep else spec.n
    for count in (later.p_hat * n, later.kept * n):
        assert np.allclose(count.fillna(0), count.fillna(0).round(), atol=1e-3)
    right = ((1 - later.p_hat) * later.phi_hat).fillna(0)
    wrong = (later.p_hat * later.psi_hat).fillna(0)
    assert np.allclose(right + wrong, later.kept.fillna(0), atol=1e-6)
    p_star = 1 / (1 + later.psi_hat / later.phi_hat)
    defined = p_star.notnull()
    assert np.allclose(later.p_star_hat.where(defined, 0), p_star.where(defined, 0), atol=1e-6)


def test_verifiers_keep_what_they_should(ran):
    found = ran["kinds"].isel(generation=slice(1, None))
    none, oracle = found.sel(verifier="none"), found.sel(verifier="oracle")
    assert (none.kept == 1).all()
    assert (none.p_star_hat == 0.5).all()
    assert np.allclose(oracle.kept, 1 - oracle.p_hat, atol=1e-6)
    assert (oracle.psi_hat == 0).all()
    assert (oracle.p_star_hat == 1).all()


def test_theory_is_that_of_the_grid_point(ran):
    numbers = ran["numbers"]
    p_star = numbers.p_star.isel(generation=1)
    for psi in numbers.psi.values:
        expected = float(breakdown_point(jnp.float32(1.0), jnp.float32(psi)))
        assert np.allclose(p_star.sel(psi=psi), expected)
    # At n → ∞ a flip generator gives everything or nothing, by the side of p* that p is on.
    last = numbers.population_accuracy.isel(generation=1)
    assert np.allclose(last, (numbers.p < p_star).astype(float), atol=1e-3)


def test_nothing_kept_spoils_no_other(ran):
    dead, alive = (ran["nothing kept"].sel(p=p) for p in (1.0, 0.5))
    assert (dead.status.isel(generation=slice(1, None)) == 3).all()
    assert dead.accuracy.isel(generation=slice(1, None)).isnull().all()
    assert (alive.status == 0).all()
    assert alive.accuracy.notnull().all()


def test_a_swept_seed_and_size_are_those_of_a_run_alone(ran):
    found, last = ran["sizes"], 2**32 - 1
    alone = mixture.run(Spec(**SMALL, seed=last))  # n = 60
    swept = found.sel(n=60, seed=last, drop=True)
    for name in ("accuracy", "norm", "p_hat", "kept"):
        assert np.allclose(swept[name], alone[name], atol=1e-5, equal_nan=True), name
    drawn = found.norm.isel(generation=1).values.ravel()
    assert len(set(drawn)) == len(drawn)  # every seed, size and trajectory draws its own


def test_classifiers_are_the_ones_that_were_measured(ran):
    """Their norm and their cosine with e₀ are the recorded norm and overlap."""
    found = ran["classifiers"]
    norm = np.linalg.norm(found.classifier, axis=-1)
    assert np.allclose(norm, found.norm, rtol=1e-5)
    assert np.allclose(found.classifier[..., 0] / norm, found.overlap, atol=1e-5)


def test_from_a_file(case, tmp_path):
    _, found = case
    path = tmp_path / "results.nc"
    results.write(found, path)
    assert results.read(path).identical(found)
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        assert opened.identical(found)
        for name in found.variables:
            assert opened[name].dims == found[name].dims
            if found[name].dtype.kind in "if":  # strings may come back in another guise
                assert opened[name].dtype == found[name].dtype, name
    first = path.read_bytes()
    results.write(mixture.run(from_json(Spec, found.attrs["spec"])), path)
    assert path.read_bytes() == first


def test_three_lines_of_python_leave_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from synthjax import mixture

    found = mixture.run(mixture.Spec(n=200, d=5, verifier="oracle", trajectories=2))

    assert found.accuracy.sizes == {"trajectory": 2, "generation": 6}
    assert not list(tmp_path.iterdir())
