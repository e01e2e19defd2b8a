"""Series from results and from tables."""

import numpy as np
import pytest
import xarray as xr

from synthjax import mixture
from synthjax.io import results as files
from synthjax.mixture import dataset
from synthjax.scaling import data, laws
from synthjax.scaling.laws import FitError


@pytest.fixture(scope="module")
def results():
    return mixture.run(
        mixture.Spec(
            d=4,
            generations=2,
            trajectories=3,
            learner="ridge",
            verifier="linear",
            sweep={"n": (20, 40, 80), "theta_ver": (0.1, 0.5)},
        )
    )


def test_a_series_for_every_other_axis(results):
    found = data.from_results(results, ["n"], name="ours")
    assert [one.name for one in found] == ["ours, theta_ver=0.1", "ours, theta_ver=0.5"]
    one = found[1]
    expected = 1 - results.accuracy.sel(theta_ver=0.5).isel(generation=-1)
    np.testing.assert_allclose(one.repeats, expected.transpose("n", "trajectory"))
    np.testing.assert_allclose(one.error, one.repeats.mean(1))
    assert one.columns["n"].tolist() == [20, 40, 80]


def test_angle_ratio_generations_and_surface(results):
    [one, _] = data.from_results(results, ["d/n"], "angle")
    np.testing.assert_allclose(one.columns["d/n"], [0.2, 0.1, 0.05])
    angle = np.arccos(results.overlap.sel(theta_ver=0.1).isel(generation=-1))
    np.testing.assert_allclose(one.error, angle.mean("trajectory"), rtol=1e-6)
    assert len(data.from_results(results, ["generation"])) == 6
    [one] = data.from_results(results, ["n", "generation", "theta_ver"])
    assert {len(column) for column in one.columns.values()} == {12}
    at = (one.columns["n"] == 40) & (one.columns["generation"] == 1)
    at &= one.columns["theta_ver"] == 0.5
    expected = 1 - results.accuracy.sel(n=40, generation=1, theta_ver=0.5).mean()
    assert one.error[at] == pytest.approx(float(expected), rel=1e-6)


def test_a_file_of_results(results, tmp_path):
    files.write(results, tmp_path / "results.nc")
    found = data.read(tmp_path / "results.nc", ["n"], "error", "theta_ver")
    np.testing.assert_allclose(found[0].error, data.from_results(results, ["n"])[0].error)


def test_a_tidy_table(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "step,kind,accuracy\n1,a,0.5\n2,a,0.7\n1,a,0.6\n2,a,0.8\n1,b,0.9\n2,b,0.95\n1,b,0.9\n2,b,\n"
    )
    first, second = data.read(path, ["step"], "error", "kind")
    assert (first.name, second.name) == ("kind=a", "kind=b")
    np.testing.assert_allclose(first.error, [0.45, 0.25])
    np.testing.assert_allclose(first.repeats, [[0.5, 0.4], [0.3, 0.2]])
    np.testing.assert_allclose(second.error, [0.1, 0.05])
    assert second.repeats is None  # one is missing


def test_points_of_no_series_are_dropped(tmp_path):
    path = tmp_path / "runs.csv"
    rows = [f"{n},{0.1 + 1 / n},{'a' if n < 7 else ''}" for n in range(1, 13)]
    path.write_text("\n".join(["n,error,by", *rows, rows[-1]]))
    [one] = data.read(path, ["n"], "error", "by")
    assert (one.name, len(one.error), one.dropped) == ("by=a", 6, 6)
    assert laws.fit(one).dropped == 6
    path.write_text("n,error,by\n1,0.5,\n2,0.4,\n")
    with pytest.raises(FitError, match="column 'by' holds nothing"):
        data.read(path, ["n"], "error", "by")


def test_the_ratio_from_a_table(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("n,d,error\n100,10,0.5\n\n200,10,0.4\n400,10,0.3\n")
    [one] = data.read(path, ["d/n"], "error")
    np.testing.assert_allclose(one.columns["d/n"], [0.025, 0.05, 0.1])
    np.testing.assert_allclose(one.error, [0.3, 0.4, 0.5])


BAD = {
    "words": ("s.nc", ["kind"], "error", "s.nc: x=kind: holds no numbers"),
    "word": ("s.nc", ["n"], "word", "s.nc: y=word: holds no numbers"),
    "spec": ("oops.nc", ["n"], "error", "oops.nc: attribute spec = 'oops': is no JSON object"),
    "list": ("list.nc", ["n"], "error", "list.nc: attribute spec = .*: is no JSON object"),
    "d": ("d.nc", ["d/n"], "error", "d.nc: x=d: holds no numbers"),
    "accuracy": ("s.nc", ["n"], "accuracy", "s.nc: accuracy is no error; take --y=error"),
    "no variable": ("s.nc", ["n"], "angle", "s.nc: y=angle: no such.*; choices: error, word"),
    "no axis": ("s.nc", ["m"], "error", "s.nc: x=m: no axis of accuracy; choices: kind, n"),
    "no file": ("none.csv", ["n"], "error", "cannot be read"),
    "no results": ("empty.nc", ["n"], "error", "cannot be read"),
    "no column": ("t.csv", ["m"], "error", "no column 'm'; choices: n, accuracy, word, gone, hole"),
    "no y": ("t.csv", ["n"], "loss", "no column 'loss'"),
    "no number": ("t.csv", ["word"], "error", "line 4: word = 'x' is no number"),
    "no x": ("t.csv", ["hole"], "error", "t.csv, line 4: hole is missing"),
    "no value": ("t.csv", ["gone"], "error", "column 'gone' holds no number"),
    "no error": ("t.csv", ["n"], "accuracy", "take --y=error"),
}


@pytest.mark.parametrize("name, x, y, said", BAD.values(), ids=BAD)
def test_bad_files(name, x, y, said, tmp_path):
    (tmp_path / "t.csv").write_text("n,accuracy,word,gone,hole\n1,0.5,2,,1\n\n2,0.6,x,,\n")
    (tmp_path / "empty.nc").write_bytes(b"")
    axes = ("kind", "n")
    variables = {"accuracy": (axes, [[0.5, 0.6]] * 2), "word": (axes, [["x", "y"]] * 2)}
    results = xr.Dataset(variables, {"kind": ["a", "b"], "n": [1, 2]})
    specs = {"s": "{}", "oops": "oops", "list": "[1]", "d": '{"d": "ten"}'}
    for stem, spec in specs.items():
        files.write(results.assign_attrs(spec=spec), tmp_path / f"{stem}.nc")
    with pytest.raises(FitError, match=said):
        data.read(tmp_path / name, x, y)


@pytest.mark.parametrize("kept", [False, True])
def test_names_are_known_before_a_run(kept):
    sweep = {"verifier": ("none", "linear"), "n": (20, 40)}
    spec = mixture.Spec(d=4, generations=1, trajectories=2, keep_classifiers=kept, sweep=sweep)
    declared, results = dataset.declared(spec), mixture.run(spec)
    assert {k: v.dims for k, v in declared.items()} == {k: v.dims for k, v in results.items()}
    assert declared.attrs == results.attrs


def test_bad_axes(results):
    with pytest.raises(FitError, match="x=p: no axis of accuracy; choices: n, theta_ver"):
        data.from_results(results, ["p"])
    with pytest.raises(FitError, match="y=loss: no such variable; choices: error, angle, test_ac"):
        data.from_results(results, ["n"], "loss")
    with pytest.raises(FitError, match="by=seed: the other axes are theta_ver"):
        data.from_results(results, ["n"], by="seed")


def test_results_of_another_task():
    """Any labelled error over an axis, without trajectories or a spec."""
    rouge = xr.Dataset({"loss": (("examples",), [0.5, 0.4, 0.3])}, {"examples": [1, 2, 4]})
    [one] = data.from_results(rouge, ["examples"], "loss")
    assert one.repeats is None
    np.testing.assert_allclose(one.error, [0.5, 0.4, 0.3])
    [one] = data.from_results(rouge.rename(loss="error"), ["examples"])
    np.testing.assert_allclose(one.error, [0.5, 0.4, 0.3])
