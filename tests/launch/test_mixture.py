"""`python -m launch.mixture`: what it writes, says and refuses."""

import json
import re
import subprocess
import sys

import jax
import matplotlib.image
import pytest
from launched import BASE, ROOT, chunks, lines, one_error, saved

from synthjax.io import results
from synthjax.mixture import Spec
from synthjax.protocol.spec import fields_of, from_json

pytestmark = pytest.mark.slow


def test_what_a_run_writes(few):
    workdir, done = few
    names = {"results.nc", "spec.json", "metrics.jsonl", "checkpoints", "figures"}
    assert {path.name for path in workdir.iterdir()} == names
    found = results.read(workdir / "results.nc")
    assert found.accuracy.sizes == {"seed": 4, "trajectory": 3, "generation": 3}
    assert found.accuracy.notnull().all()
    assert len(set(found.norm.isel(generation=1).values.ravel())) == 12  # all draw their own

    about = json.loads((workdir / "spec.json").read_text())
    assert from_json(Spec, json.dumps(about["spec"])) == from_json(Spec, found.attrs["spec"])
    assert about["spec"]["seed"] == 0
    assert about["versions"]["jax"] == jax.__version__
    assert all(about["versions"].values())
    assert "cpu" in about["device"].lower()
    assert about["python"] == sys.version.split()[0]
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    commit = about["git_commit"]
    if head.returncode == 0:
        assert head.stdout.startswith(commit.removesuffix("-dirty"))
    else:
        assert commit is None

    assert chunks(workdir) == [0, 1, 2, 3]
    for line, accuracy in zip(lines(workdir), found.accuracy.mean("trajectory"), strict=True):
        assert line["accuracy"] == pytest.approx(accuracy.values.tolist(), abs=1e-5)
        assert line["trajectories"] == [0, 3]
        assert line["seconds"] > 0
    assert saved(workdir) == {0, 1, 2, 3}

    (figure,) = (workdir / "figures").glob("*.png")
    pixels = matplotlib.image.imread(figure)
    assert min(pixels.shape[:2]) >= 300
    assert len({tuple(pixel) for pixel in pixels.reshape(-1, pixels.shape[2])[::97]}) > 10

    for said in ("12 trajectories", "GiB", str(workdir / "results.nc"), str(figure)):
        assert said in done.stdout
    table = [line.split() for line in done.stdout.splitlines()]
    rows = {row[0]: row for row in table if row and row[0] in "0123"}
    assert set(rows) == set("0123")
    for seed, row in rows.items():
        expected = found.accuracy.sel(seed=int(seed)).isel(generation=-1).mean()
        assert f"{expected:.4f}" in row
    assert "Traceback" not in done.stderr
    assert "warn" not in done.stderr.lower()


def test_help_names_every_field():
    done = subprocess.run(
        [sys.executable, "-m", "launch.mixture", "--help"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )
    for name, field in fields_of(Spec).items():
        assert re.search(rf"^\s*{name}[=.]", done.stdout, re.MULTILINE), name
        assert field.metadata["doc"].split()[0] in done.stdout
        for kind in field.metadata["kinds"] or ():
            assert kind in done.stdout
    for said in ("--workdir", "quickstart", "phase_diagram", "configs/mixture.py"):
        assert said in done.stdout


NOISY = [BASE, "--config.verifier=noisy", "--config.generator=flip"]
FIELDS = ("n", "d", "p", "verifier")

# arguments, where the error lies, the value as it is named, words of the rule, choices
REFUSED = {
    "wrong field": ([BASE, "--config.m=5"], "m", "'5'", "is no field", FIELDS),
    "wrong type": ([BASE, "--config.n=many"], "n", "'many'", "must be an integer >= 1", ()),
    "float for an integer": ([BASE, "--config.n=10.5"], "n", "'10.5'", "must be an integer", ()),
    "wrong type after a right one": (
        [BASE, "--config.l2=0.1", "--config.n=10.5"],
        "n",
        "'10.5'",
        "must be an integer",
        (),
    ),
    "wrong field after a right one": (
        [BASE, "--config.n=10", "--config.m=5"],
        "m",
        "'5'",
        "is no field",
        FIELDS,
    ),
    "no truth value": (
        [BASE, "--config.keep_classifiers=perhaps"],
        "keep_classifiers",
        "'perhaps'",
        "must be True or False",
        (),
    ),
    "not finite": ([BASE, "--config.l2=nan"], "l2", "nan", "must be a finite number", ()),
    "a number too long": (
        [BASE, f"--config.n={'9' * 400}"],
        "n",
        "9" * 400,
        "must be an integer",
        (),
    ),
    "p > 1": ([*NOISY, "--config.p=1.5"], "p", "1.5", ">= 0 and <= 1", ()),
    "p < 0, swept": ([*NOISY, "--config.sweep.p=(-0.5,0.5)"], "sweep.p", "-0.5", ">= 0", ()),
    "phi = psi = 0": (
        [*NOISY, "--config.phi=0", "--config.psi=0"],
        "psi",
        "0.0",
        "one must be > 0",
        (),
    ),
    "phi = psi = 0, swept": (
        [*NOISY, "--config.sweep.phi=(0.,1.)", "--config.sweep.psi=(0.,1.)"],
        "sweep.psi",
        "(0.0, 1.0)",
        "one must be > 0",
        (),
    ),
    "n < 1": ([BASE, "--config.n=0"], "n", "0", "must be an integer >= 1", ()),
    "d < 3": ([BASE, "--config.d=2"], "d", "2", "must be an integer >= 3", ()),
    "T < 1": ([BASE, "--config.generations=0"], "generations", "0", "must be an integer >= 1", ()),
    "empty axis": ([BASE, "--config.sweep.n=()"], "sweep.n", "()", "at least one value", ()),
    "twice the same": (
        [BASE, "--config.sweep.n=(5,5)"],
        "sweep.n",
        "(5, 5)",
        "must differ",
        (),
    ),
    "axis that is no field": (
        [BASE, "--config.sweep.m=(1,2)"],
        "sweep.m",
        "'(1,2)'",
        "is no field",
        FIELDS,
    ),
    "axis that cannot be swept": (
        [BASE, "--config.sweep.generations=(1,2)"],
        "sweep.generations",
        "'(1,2)'",
        "cannot be swept",
        FIELDS,
    ),
    "axis of the wrong type": (
        [BASE, "--config.sweep.n=(1,'x')"],
        "sweep.n",
        "'x'",
        "must be an integer >= 1",
        (),
    ),
    "unread": ([BASE, "--config.p=0.2"], "p", "0.2", "only generator=flip would", ()),
    "unread, set to its default": (
        [BASE, "--config.psi=0.5"],
        "psi",
        "0.5",
        "only verifier=noisy would",
        (),
    ),
    "unread, swept": (
        [BASE, "--config.sweep.p=(0.2,0.3)"],
        "sweep.p",
        "(0.2, 0.3)",
        "only generator=flip would",
        (),
    ),
    "unknown kind": (
        [BASE, "--config.verifier=orcale"],
        "verifier",
        "'orcale'",
        "must be a known kind",
        ("none", "oracle", "noisy", "linear"),
    ),
    "unknown kind, swept": (
        [BASE, "--config.sweep.learner=('ridge','svm')"],
        "sweep.learner",
        "'svm'",
        "must be a known kind",
        ("ridge", "logistic"),
    ),
    "l2 = 0, logistic": ([BASE, "--config.l2=0"], "l2", "0.0", "must be > 0 with learner=log", ()),
    "too little memory": (
        [BASE, "--config.memory_gb=0.0001"],
        "memory_gb",
        "0.0001",
        "must be at least 0.",
        (),
    ),
    "more results than memory": (
        [BASE, "--config.trajectories=2000000000"],
        "trajectories",
        "2000000000",
        "this machine has",
        (),
    ),
    "classifiers of many sizes": (
        [BASE, "--config.keep_classifiers", "--config.sweep.d=(3,4)"],
        "keep_classifiers",
        "True",
        "sweep no d",
        (),
    ),
    "in a part": (
        ["--config=configs/mixture.py:quickstart", "--config.angles.n=0"],
        "angles.n",
        "0",
        "must be an integer >= 1",
        (),
    ),
    "wrong field in a part": (
        ["--config=configs/mixture.py:quickstart", "--config.angles.m=5"],
        "angles.m",
        "'5'",
        "is no field",
        FIELDS,
    ),
    "too little memory in a part": (
        ["--config=configs/mixture.py:quickstart", "--config.angles.memory_gb=0.0001"],
        "angles.memory_gb",
        "0.0001",
        "must be at least 0.",
        (),
    ),
    "a whole part": (
        ["--config=configs/mixture.py:quickstart", "--config.breakdown=100"],
        "breakdown",
        "'100'",
        "is a spec: set its fields, as --config.breakdown.FIELD=VALUE",
        (),
    ),
    "a whole part, as a dict": (
        ["--config=configs/mixture.py:quickstart", "--config.breakdown={'n':100}"],
        "breakdown",
        "{'n': 100}",
        "is a spec: set its fields, as --config.breakdown.FIELD=VALUE",
        (),
    ),
    "a part left out": (
        ["--config=configs/mixture.py:quickstart", "--config.n=10"],
        "n",
        "'10'",
        "",
        ("breakdown", "angles"),
    ),
}


@pytest.mark.parametrize("argv,path,value,rule,choices", REFUSED.values(), ids=REFUSED)
def test_refused(launch, tmp_path, argv, path, value, rule, choices):
    code, stdout, stderr = launch(argv, told=True).end()
    assert stderr.count("\n") == 1, stderr  # and so nothing was traced or compiled either
    assert code == 2
    assert stderr.startswith(f"error: config.{path} = {value}: ")
    assert rule in stderr
    assert all(choice in stderr.partition("choices: ")[2] for choice in choices)
    assert stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "argv,said",
    [
        (["--config=configs/mixture.py:nope"], "choices: base, quickstart, phase_diagram"),
        (["--config=nowhere.py"], "flag --config=nowhere.py: no such file"),
        (["--config=", "--config.n=5"], "flag --config=: no such file"),
        (["--config=configs/eigen.py:demo"], "eigen.py:demo: is no config of launch.mixture"),
        ([BASE, "--n=5"], "Unknown command line flag 'n'; fields begin with --config."),
        ([], "needs --config="),
        ([BASE, "--confg.n=5"], "confg"),
        ([BASE, "config.n=5"], "unexpected argument 'config.n=5'"),
        ([BASE, "--config.sweep=(1,2)"], "config.sweep"),
    ],
)
def test_a_command_line_that_says_nothing(launch, tmp_path, argv, said):
    code, stdout, stderr = launch(argv).end()
    assert (code, stdout) == (2, "")
    assert said in one_error(stderr)
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_empty_workdir_is_not_the_current_folder(launch):
    code, stdout, stderr = launch([BASE], workdir="").end()
    assert (code, stdout) == (2, "")
    said = "flag --workdir=: must name a file or folder, and is empty; the current folder is ."
    assert one_error(stderr) == said


@pytest.mark.long
def test_nothing_is_kept_by_anyone(launch, tmp_path):
    """All trajectories end with a status; that is a result, to be written, drawn and told."""
    argv = [BASE, "--config.n=50", "--config.d=3", "--config.trajectories=2"]
    argv += ["--config.generator=flip", "--config.p=1.0", "--config.verifier=oracle"]
    code, stdout, stderr = launch(argv).end()
    assert code == 0, stderr
    assert "warn" not in stderr.lower()
    found = results.read(tmp_path / "run" / "results.nc")
    assert (found.status.isel(generation=slice(1, None)) == 3).all()
    (line,) = lines(tmp_path / "run")
    assert line["not_fine"] == 10
    assert line["accuracy"][0] == 0
    assert "nan" in stdout


CONFIG = """
from ml_collections import config_dict
from synthjax.mixture import Spec
from synthjax.protocol.spec import to_config

def get_config():
    small = dict(n=50, d=3, generations=1, trajectories=2, learner="ridge")
    one, two = to_config(Spec(**small)), to_config(Spec(**small, verifier="oracle"))
    {then}
    return config_dict.ConfigDict(dict(one=one, two=two))
"""


def test_several_specs_in_folders_of_their_own(launch, tmp_path):
    """From a config file of the user's own; fields are set by --config.PART.FIELD."""
    (tmp_path / "own.py").write_text(CONFIG.format(then=""))
    argv = [f"--config={tmp_path / 'own.py'}", "--config.two.seed=3"]
    code, stdout, stderr = launch(argv).end()
    assert code == 0, stderr
    for name, seed, psi in (("one", 0, 1), ("two", 3, 0)):
        part = tmp_path / "run" / name
        found = results.read(part / "results.nc")
        assert json.loads(found.attrs["spec"])["seed"] == seed
        assert (found.psi_hat.isel(generation=1) == psi).all()
        assert list((part / "figures").glob("*.png"))
        assert str(part / "results.nc") in stdout
    first = (tmp_path / "run" / "one" / "spec.json").read_bytes()
    code, _, stderr = launch([*argv, "--config.two.seed=4"]).end()
    assert code == 2
    assert "seed: 3 there, 4 here" in one_error(stderr)
    assert (tmp_path / "run" / "one" / "spec.json").read_bytes() == first


BEGIN = "from synthjax.mixture import Spec, register\nfrom ml_collections import config_dict\n"


@pytest.mark.parametrize(
    "text,said",
    [
        ("get_config = lambda: Spec(n=-1)", "config.n = -1: must be an integer >= 1"),
        (
            "register('verifier', print, reads=('theta_vr',))",
            "config.verifier = 'print': reads 'theta_vr', which is no field; choices: features",
        ),
        ("get_confg = Spec", "has no function get_config"),
        ("import nothere", "ModuleNotFoundError: No module named 'nothere' (line 3)"),
        ("get_config = lambda: {}['k']", "KeyError: 'k' (line 3)"),
        ("get_config = lambda: open('gone')", "FileNotFoundError: [Errno 2] No such file"),
        ("get_config = lambda: config_dict.ConfigDict({'n': 9})", "get_config must return a Spec"),
        ("get_config = lambda: None", "get_config must return a Spec"),
        ("get_config = = 1", "SyntaxError: invalid syntax"),
    ],
)
def test_an_error_of_a_config_file_names_it(launch, tmp_path, text, said):
    (tmp_path / "own.py").write_text(BEGIN + text)
    code, stdout, stderr = launch([f"--config={tmp_path / 'own.py'}", "--config.n=5"]).end()
    assert (code, stdout) == (2, "")
    assert stderr.splitlines()[-1].startswith(f"error: flag --config={tmp_path / 'own.py'}: {said}")
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def test_a_config_file_may_return_a_spec(launch, tmp_path):
    text = "get_config = lambda: Spec(n=50, d=3, trajectories=2, learner='ridge')"
    (tmp_path / "own.py").write_text(BEGIN + text)
    code, _, stderr = launch([f"--config={tmp_path / 'own.py'}", "--config.generations=1"]).end()
    assert code == 0, stderr
    attrs = results.read(tmp_path / "run" / "results.nc").attrs
    assert from_json(Spec, attrs["spec"]) == Spec(
        n=50, d=3, trajectories=2, learner="ridge", generations=1
    )


@pytest.mark.parametrize(
    "then,said",
    [
        ("two.m = 5", "config.two.m = 5: "),
        ("two.n = 'many'", "field 'n'"),  # ml_collections sees it before us, and says so
        ("two.d = 0", "config.two.d = 0: must be an integer >= 3"),
    ],
)
def test_a_config_file_with_a_mistake(launch, tmp_path, then, said):
    (tmp_path / "own.py").write_text(CONFIG.format(then=then))
    code, _, stderr = launch([f"--config={tmp_path / 'own.py'}"]).end()
    assert code == 2
    assert said in one_error(stderr)
    assert not (tmp_path / "run").exists()
