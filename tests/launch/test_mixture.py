"""`python -m launch.mixture`: what it writes, refuses, survives.

Most runs here are real processes forked from one that has imported everything already (a fork
server), which saves each of them the seconds that importing JAX takes.
"""

import json
import multiprocessing
import os
import random
import re
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import matplotlib.image
import pytest

from synthjax.io import results
from synthjax.mixture import Spec
from synthjax.protocol.spec import fields_of, from_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BASE = "--config=configs/mixture.py:base"
SMALL = [BASE, "--config.n=200", "--config.d=5", "--config.generations=2"]
SMALL += ["--config.trajectories=3", "--config.learner=ridge", "--config.verifier=linear"]


def seeds(count: int) -> list[str]:
    """A sweep of as many chunks, for each base seed is one, and of a single program."""
    return [*SMALL, f"--config.sweep.seed={tuple(range(count))}"]


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["synthjax.mixture", "synthjax.plot.figures", "synthjax.plot.table"])


def tell(event: str, seconds: float, **about) -> None:
    print(f"{event.rsplit('/', 1)[-1]}: {about.get('fun_name')}", file=sys.stderr, flush=True)


def become(argv: list[str], said: Path, told: bool, limit: int) -> None:
    """Be `python -m launch.mixture` in this process, its output in files of the folder `said`.

    `told`: say of each tracing and compilation that it is done. `limit`: no file may grow larger.
    """
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(said / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
    if told:
        jax.monitoring.register_event_duration_secs_listener(tell)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.chdir(ROOT)
    sys.argv = ["launch/mixture.py", *argv]
    runpy.run_module("launch.mixture", run_name="__main__", alter_sys=True)


class Run:
    """A process that runs the launcher."""

    def __init__(self, argv: list[str], said: Path, *, told: bool = False, limit: int = 0):
        said.mkdir(parents=True, exist_ok=True)
        for name in ("stdout", "stderr"):
            (said / name).unlink(missing_ok=True)
        self._said = said
        self.process = FORKS.Process(target=become, args=(argv, said, told, limit))
        self.process.start()

    def read(self, name: str) -> str:
        path = self._said / name
        return path.read_text() if path.exists() else ""

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something, which must happen while the process runs."""
        while not happened():
            assert self.process.is_alive(), self.read("stderr")
            time.sleep(0.005)

    def until_chunk(self, workdir: Path, count: int) -> None:
        """Wait for so many lines in metrics.jsonl."""
        self.until(lambda: len(chunks(workdir)) >= count)

    def end(self, number: int = 0) -> tuple[int, str, str]:
        """Exit code, standard output and standard error, after a signal if one is given."""
        if number:
            os.kill(self.process.pid, number)
        self.process.join(200)
        if self.process.is_alive():
            self.process.kill()
            pytest.fail(f"still runs: {self.read('stderr')}")
        return self.process.exitcode, self.read("stdout"), self.read("stderr")


@pytest.fixture
def launch(tmp_path):
    """Start the launcher on a workdir; output and errors lie beside the workdir, not in it."""

    def start(argv, workdir=tmp_path / "run", **how) -> Run:
        return Run([*argv, f"--workdir={workdir}"], tmp_path / "said", **how)

    return start


def one_error(stderr: str) -> str:
    """The error, which is the last line, the only one of its sort, and no traceback is near."""
    *others, last = stderr.splitlines()
    assert last.startswith("error: "), stderr
    assert all(re.fullmatch(r"\d+/\d+ trajectories.*", line) for line in others), stderr
    return last.removeprefix("error: ")


def lines(workdir: Path) -> list[dict]:
    """metrics.jsonl, a line that is still being written left out."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line, parse_constant=refuse) for line in whole]


def chunks(workdir: Path) -> list[int]:
    return [line["chunk"] for line in lines(workdir)]


def saved(workdir: Path) -> set[int]:
    """The chunks that are sealed."""
    return {int(path.parent.name) for path in workdir.glob("checkpoints/*/manifest.json")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 36 chunks that nothing disturbed: the workdir."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, stderr = Run([*seeds(36), f"--workdir={folder / 'run'}"], folder).end()
    assert code == 0, stderr
    return folder / "run"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A run of 4 chunks by the real command: (workdir, finished process)."""
    workdir = tmp_path_factory.mktemp("few") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "launch.mixture", *seeds(4), f"--workdir={workdir}"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.fixture
def used(few, tmp_path):
    """A copy of the workdir of 4 chunks."""
    return Path(shutil.copytree(few[0], tmp_path / "run"))


def same_results(workdir: Path, other: Path) -> bool:
    return (workdir / "results.nc").read_bytes() == (other / "results.nc").read_bytes()


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
        (["--config=nowhere.py"], "nowhere.py: no such file"),
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


def test_killed_again_and_again(launch, whole, tmp_path):
    """SIGKILL before, while and after it computes; nothing saved is computed again."""
    rng = random.Random(2)
    workdir = tmp_path / "run"
    moments = [(0, rng.uniform(0.0, 1.5))]
    moments += [(rng.randint(1, 3), rng.uniform(0.0, 0.12)) for _ in range(6)]
    for more, seconds in moments:
        kept, before = saved(workdir), chunks(workdir)
        run = launch(seeds(36))
        run.until_chunk(workdir, len(before) + more)
        time.sleep(seconds)
        code, _, stderr = run.end(signal.SIGKILL)
        assert code == -signal.SIGKILL, stderr
        done = chunks(workdir)
        assert not kept & set(done[len(before) :])
        assert kept <= saved(workdir)
        assert set(done) - saved(workdir) <= set(done[-1:])  # a kill costs one save at most
        assert not (workdir / "results.nc").exists()
    assert len(saved(workdir)) > 6
    # Once more while the results are written or drawn, and then to the end.
    run = launch(seeds(36))
    run.until(lambda: set(chunks(workdir)) == set(range(36)))
    run.end(signal.SIGKILL)
    kept, before = saved(workdir), chunks(workdir)
    code, _, stderr = launch(seeds(36)).end()
    assert code == 0, stderr
    assert not kept & set(chunks(workdir)[len(before) :])
    assert saved(workdir) == set(range(36))
    assert same_results(workdir, whole)
    assert not list(workdir.rglob("*partial*"))
    assert not list(workdir.rglob("*tmp*"))


def how_to_go_on(stdout: str) -> list[str]:
    """The arguments of the command that a stopped run prints."""
    command = shlex.split(stdout[stdout.index("To go on:") :].splitlines()[1])
    assert command[:3] == [sys.executable, "-m", "launch.mixture"]
    return command[3:]


def test_terminated_while_it_computes(launch, whole, tmp_path):
    workdir = tmp_path / "run"
    argv = [*seeds(36), f"--workdir={workdir}"]
    run = launch(seeds(36))
    run.until_chunk(workdir, 3)
    code, stdout, stderr = run.end(signal.SIGTERM)
    assert code == 0, stderr
    assert "Stopped: " in stdout
    assert how_to_go_on(stdout) == argv
    done = chunks(workdir)
    assert saved(workdir) == set(done)  # all that was computed is saved
    assert 3 <= len(done) < 36
    assert f"{3 * len(done)} of 108 trajectories" in stdout
    # Stopped a second time, and then to the end.
    run = Run(argv, tmp_path / "said")
    run.until_chunk(workdir, len(done) + 1)
    code, stdout, _ = run.end(signal.SIGTERM)
    assert code == 0
    assert saved(workdir) > set(done)
    code, _, stderr = Run(how_to_go_on(stdout), tmp_path / "said").end()
    assert code == 0, stderr
    assert sorted(chunks(workdir)) == list(range(36))
    assert same_results(workdir, whole)


def test_terminated_while_it_compiles(launch, few, tmp_path):
    run = launch(seeds(4), told=True)
    run.until(lambda: "run_tiles" in run.read("stderr"))  # traced
    code, stdout, stderr = run.end(signal.SIGTERM)
    assert code == 0, stderr
    assert chunks(tmp_path / "run") in ([], [0], [0, 1])
    code, _, stderr = Run(how_to_go_on(stdout), tmp_path / "said").end()
    assert code == 0, stderr
    assert same_results(tmp_path / "run", few[0])


def test_a_finished_run_again(launch, few, used):
    """Nothing to compute, for a smaller memory budget neither."""
    for more in ([], ["--config.memory_gb=0.5"]):
        code, _, stderr = launch([*seeds(4), *more], told=True).end()
        assert code == 0, stderr
        assert "run_tiles" not in stderr
        assert chunks(used) == [0, 1, 2, 3]
        assert results.read(used / "results.nc").equals(results.read(few[0] / "results.nc"))
        assert same_results(used, few[0]) == (not more)  # the budget is on record


@pytest.mark.parametrize("damage", ["flipped", "cut", "unsealed", "gone"])
def test_a_damaged_checkpoint(launch, few, used, damage):
    file = max((used / "checkpoints" / "2").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    named = file.name
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "unsealed":
        named = "manifest.json"
        (used / "checkpoints" / "2" / named).unlink()
    else:
        named = ""  # a chunk that is not there at all is no surprise
        shutil.rmtree(used / "checkpoints" / "2")
    (used / "results.nc").unlink()
    code, _, stderr = launch(seeds(4)).end()
    assert code == 0, stderr
    assert named in stderr
    assert (str(used / "checkpoints" / "2") in stderr) == bool(named)
    assert "Traceback" not in stderr
    assert chunks(used) == [0, 1, 2, 3, 2]
    assert same_results(used, few[0])


def test_another_spec_in_a_used_workdir(launch, used):
    before = {path: path.read_bytes() for path in used.rglob("*") if path.is_file()}
    argv = [arg for arg in SMALL if not arg.startswith(("--config.learner", "--config.n="))]
    code, _, stderr = launch([*argv, "--config.n=300", "--config.sweep.seed=(0,1)"]).end()
    assert code == 2
    said = one_error(stderr)
    for name, there, here in (
        ("n", "200", "300"),
        ("learner", "'ridge'", "'logistic'"),
        ("sweep", "{'seed': [0, 1, 2, 3]}", "{'seed': [0, 1]}"),
    ):
        assert f"{name}: {there} there, {here} here" in said
    assert said.count(" there, ") == 3
    assert str(used) in said
    assert {path: path.read_bytes() for path in used.rglob("*") if path.is_file()} == before


def fill(folder: Path, victim: str) -> int:
    """Make the next write to `victim` fail, by the limit on file sizes that is returned.

    Or by /dev/full, which has room for nothing.
    """
    if victim == "spec.json":
        shutil.rmtree(folder)
        return 400
    shutil.rmtree(folder / "checkpoints" / "3")
    kept = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:3]
    (folder / "metrics.jsonl").write_text("".join(kept))
    if victim == "checkpoints":
        return 1200
    if victim == "metrics.jsonl":
        kept.append(json.dumps({"chunk": -1, "note": 9999 * "x"}) + "\n")
        (folder / "metrics.jsonl").write_text("".join(kept))
        return (folder / "metrics.jsonl").stat().st_size + 9
    if victim == "results.nc":
        return (folder / "results.nc").stat().st_size // 2
    if victim == "figures":
        figure = next((folder / "figures").glob("*.png"))
        figure.unlink()
        figure.symlink_to("/dev/full")
    return 0


@pytest.mark.parametrize(
    "victim", ["spec.json", "checkpoints", "metrics.jsonl", "results.nc", "figures"]
)
def test_a_full_disk(launch, few, used, victim):
    limit = fill(used, victim)
    kept = saved(used)
    code, _, stderr = launch(seeds(4), limit=limit).end()
    said = one_error(stderr)
    assert code == 2
    assert str(used) in said
    assert victim in said or victim == "spec.json"
    assert kept <= saved(used)
    if victim == "figures":
        next(path for path in used.rglob("*") if path.is_symlink()).unlink()
    before = chunks(used)
    code, _, stderr = launch(seeds(4)).end()
    assert code == 0, stderr
    assert not kept & set(chunks(used)[len(before) :])
    assert same_results(used, few[0])
    assert not list(used.rglob("*partial*"))


@pytest.mark.parametrize("in_the_way", ["/proc/nowhere", "run", "run/checkpoints", "run/figures"])
def test_a_workdir_that_cannot_be_written(launch, tmp_path, in_the_way):
    path = tmp_path / in_the_way
    workdir = path if in_the_way.startswith("/proc") else tmp_path / "run"
    if not in_the_way.startswith("/proc"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("a file")
    code, _, stderr = launch([*seeds(1)], workdir).end()
    assert code == 2
    assert str(path) in one_error(stderr)
