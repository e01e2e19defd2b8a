"""A workdir that goes on: more trajectories, generations, values; and parts of one's own by name.

What it holds is never computed again, and what it ends with equals a run made at once. Equal means
to rounding: arrays of another length, or a program of other generations, may order sums otherwise.
"""

import json
import shutil
import signal
from unittest import mock

import numpy as np
import pytest
from launched import ROOT, Run, chunks, lines, one_error, same_results, saved

from synthjax import mixture
from synthjax.io import results
from synthjax.mixture import Spec
from synthjax.protocol.spec import fields_of

pytestmark = pytest.mark.slow

BASE = "--config=configs/mixture.py:base"
PAST = [BASE, "--config.initial=real", "--config.n_real=60", "--config.learner=ridge"]
PAST += ["--config.verifier=linear", "--config.regime=accumulate", "--config.d=5"]
SMALL = [*PAST, "--config.trajectories=3", "--config.generations=2", "--config.n=100"]
LARGE = [*PAST, "--config.trajectories=5", "--config.generations=4"]
LARGE += ["--config.sweep.n=(100,80,200)"]


def assert_same(found, wanted):
    assert found.attrs == wanted.attrs
    assert found.sizes == wanted.sizes
    for name in wanted.data_vars:
        np.testing.assert_allclose(
            found[name], wanted[name], rtol=2e-5, atol=2e-5, err_msg=name, equal_nan=True
        )
    assert (found.status == wanted.status).all()


def fresh(workdir, argv, said):
    """The results of a run made at once."""
    code, _, stderr = Run([*argv, f"--workdir={workdir}"], said).end()
    assert code == 0, stderr
    return results.read(workdir / "results.nc")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    return fresh(folder / "run", LARGE, folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    fresh(folder / "run", SMALL, folder)
    return folder / "run"


def test_a_finished_workdir_goes_on(launch, small, large, tmp_path):
    """More trajectories and generations, and an axis of a field that was one value."""
    workdir = shutil.copytree(small, tmp_path / "run")
    begun = {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")}
    before, first = chunks(workdir), json.loads((workdir / "spec.json").read_text())
    code, _, stderr = launch(LARGE).end()
    assert code == 0, stderr
    assert_same(results.read(workdir / "results.nc"), large)
    assert {path: path.stat().st_mtime_ns for path in begun} == begun  # nothing of it is written
    done = [(line["generations"], line["trajectories"]) for line in lines(workdir)[len(before) :]]
    # At n = 100 two trajectories are new and three go on; at 80 and 200 all five are new.
    assert sorted(done) == [([0, 4], [0, 5]), ([0, 4], [0, 5]), ([0, 4], [3, 5]), ([3, 4], [0, 3])]
    about = json.loads((workdir / "spec.json").read_text())
    assert about.pop("earlier") == [first]
    assert about["spec"]["generations"] == 4
    # And a third stage, which again computes only what is new.
    before = chunks(workdir)
    code, _, stderr = launch([*LARGE, "--config.generations=5"]).end()
    assert code == 0, stderr
    assert {tuple(line["generations"]) for line in lines(workdir)[len(before) :]} == {(5, 5)}
    code, _, stderr = launch([*LARGE, "--config.generations=5"]).end()
    assert code == 0, stderr
    assert len(saved(workdir)) == len(set(chunks(workdir))) == len(chunks(workdir))
    shared = results.read(workdir / "results.nc").sel(generation=slice(0, 4))
    for name in large.data_vars:
        np.testing.assert_allclose(shared[name], large[name], rtol=2e-5, atol=2e-5, equal_nan=True)


@pytest.mark.long
def test_killed_while_it_goes_on(launch, small, large, tmp_path):
    """SIGKILL under accumulate at each chunk of the second stage; then a damaged first stage."""
    workdir = shutil.copytree(small, tmp_path / "run")
    for _ in range(3):
        before = len(chunks(workdir))
        run = launch(LARGE)
        run.until_chunk(workdir, before + 1)
        code, *_ = run.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
    kept = saved(workdir)
    before = len(chunks(workdir))
    (workdir / "checkpoints" / "0" / "manifest.json").unlink()
    code, _, stderr = launch(LARGE).end()
    assert code == 0, stderr
    assert "manifest.json" in stderr
    again = chunks(workdir)[before:]
    assert again[0] == 0  # what others go on from comes first
    assert not (kept - {0}) & set(again)
    assert_same(results.read(workdir / "results.nc"), large)


@pytest.mark.long
@pytest.mark.parametrize("regime", ["accumulate", "subsample"])
def test_killed_in_a_long_memory(launch, tmp_path, regime):
    """SIGKILL at random chunks of one run whose training sets reach back to generation 0."""
    argv = [arg for arg in SMALL if "regime" not in arg] + [f"--config.regime={regime}"]
    argv += ["--config.generations=6", f"--config.sweep.seed={tuple(range(12))}"]
    whole = tmp_path / "whole"
    fresh(whole, argv, tmp_path / "whole_said")
    for count in (2, 5, 9):
        run = launch(argv)
        run.until_chunk(tmp_path / "run", count)
        assert run.end(signal.SIGKILL)[0] == -signal.SIGKILL
    code, _, stderr = launch(argv).end()
    assert code == 0, stderr
    assert same_results(tmp_path / "run", whole)


@pytest.mark.parametrize(
    "less, said",
    [
        (["--config.trajectories=2"], "trajectories: 3 there, 2 here"),
        (["--config.generations=1"], "generations: 2 there, 1 here"),
        (["--config.sweep.n=(80,200)"], "sweep: {} there"),
        (["--config.l2=0.1", "--config.trajectories=9"], "l2: 0.01 there, 0.1 here"),
    ],
)
def test_what_does_not_go_on(launch, small, tmp_path, less, said):
    workdir = shutil.copytree(small, tmp_path / "run")
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    code, _, stderr = launch([*SMALL, *less]).end()
    assert code == 2
    assert said in one_error(stderr)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


REGIMES = ("replace", "accumulate", "subsample", "mix")


@pytest.mark.long
def test_every_regime_goes_on(tmp_path):
    """In one sweep, with random guesses and verdicts, and w₀ from real examples."""
    common = dict(
        n=90,
        d=4,
        initial="real",
        n_real=70,
        generator="logistic",
        verifier="noisy",
        learner="ridge",
        seed=5,
        keep_classifiers=True,
    )
    few = Spec(**common, generations=1, trajectories=2, sweep={"regime": REGIMES[1:]})
    more = Spec(**common, generations=3, trajectories=3, sweep={"regime": REGIMES})
    mixture.run(few, tmp_path)
    assert_same(mixture.run(more, tmp_path), mixture.run(more))


OWN = '''
"""The configs of the project, and a verifier of my own."""
import dataclasses
import jax.numpy as jnp
from configs.mixture import get_config
from synthjax import mixture

@dataclasses.dataclass(frozen=True)
class Stubborn:
    """Keep where the first feature is on the guessed side."""
    least: float = 0.0

    def __call__(self, key, numbers, examples, guesses):
        return guesses * examples.x[:, 0] > self.least

mixture.register("verifier", Stubborn(), "stubborn")
'''


def test_a_part_of_my_own_by_name(launch, tmp_path):
    """A config file registers it; its name works in flags and sweeps, and stands in the results."""
    (tmp_path / "own.py").write_text(OWN)
    own = f"--config={tmp_path / 'own.py'}:base"
    argv = [arg for arg in SMALL if "verifier" not in arg and arg != BASE]
    argv = [own, *argv, "--config.sweep.verifier=('stubborn','oracle')"]
    code, _, stderr = launch(argv).end()
    assert code == 0, stderr
    found = results.read(tmp_path / "run" / "results.nc")
    accuracy = found.accuracy.mean("trajectory").isel(generation=-1)
    # It knows the teacher's first feature, which is all there is to know.
    assert np.allclose(accuracy.sel(verifier="stubborn"), accuracy.sel(verifier="oracle"))
    assert found.population_accuracy.sel(verifier="stubborn").isnull().all()
    assert "stubborn" in found.population_accuracy.attrs["missing"]
    assert list((tmp_path / "run" / "figures").glob("*.png"))


def test_a_name_that_nobody_registered(launch):
    code, _, stderr = launch([BASE, "--config.verifier=stubborn"]).end()
    assert code == 2
    said = one_error(stderr)
    assert "config.verifier = 'stubborn'" in said
    assert "register" in said
    assert "oracle" in said


def test_the_readme_example(monkeypatch, tmp_path):
    """The verifier that keeps by vote, as it stands in the README: with one member it is linear."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    (code,) = [part for part in text.split("```python\n")[1:] if "class Vote" in part]
    names = {}
    with mock.patch.dict(fields_of(Spec)["verifier"].metadata["kinds"]):  # it registers its own
        exec(code.split("```")[0], names)
    accuracy = names["results"].accuracy.sel(generation=3)
    one, linear, *more = (
        accuracy.sel(verifier=name).mean("trajectory").item()
        for name in ("Vote(members=1)", "linear", "Vote(members=3)", "Vote(members=15)")
    )
    assert one == pytest.approx(linear, abs=1e-5)
    assert one + 0.02 < more[0] and more[0] + 0.02 < more[1]
