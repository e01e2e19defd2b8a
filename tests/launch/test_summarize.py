"""`python -m launch.summarize` as people run it: killed, stopped, damaged, misused."""

import shutil
import signal

import pytest
from launched import Run, how_to_go_on, lines, one_error, same_results
from summarize.tiny import TINY, written

pytestmark = pytest.mark.slow

MODULE = "launch.summarize"
SIZE = {**TINY, "steps": 40, "generation_steps": 40, "save_steps": 10, "n": 60}
SMALL = ["--config=configs/summarize.py:demo", "--config.selection=top", "--config.start=base"]
SMALL += [f"--config.{name}={value}" for name, value in SIZE.items()]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return written(tmp_path_factory.mktemp("texts") / "pairs.jsonl", 200)


@pytest.fixture(scope="module")
def start(file):
    def begin(workdir, *more, **how):
        argv = [*SMALL, f"--config.data={file}", *more, f"--workdir={workdir}"]
        return Run(argv, workdir.parent / "said", module=MODULE, **how)

    return begin


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    code, stdout, stderr = start(workdir).end()
    assert code == 0, stderr
    return workdir, stdout, stderr


def test_what_it_says_and_leaves(whole):
    workdir, stdout, stderr = whole
    assert "2 elements x 2 generations, first generators: 1, parameters: " in stdout
    assert "ROUGE 1: " in stdout and "against p* = " in stdout
    assert (workdir / "figures" / "rouge.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (workdir / "samples").iterdir()} == {
        *("verifier=random.jsonl", "verifier=oracle.jsonl")
    }
    assert "Traceback" not in stderr


def sealed(folder, count=1):
    return len(list(folder.glob("*/manifest.json"))) >= count


MOMENTS = {
    "learning the first": lambda c: sealed(c / "first" / "learning", 2),
    "guessing": lambda c: (c / "verifier=random" / "guesses").exists(),
    "learning": lambda c: sealed(c / "verifier=random" / "learning", 2),
}


def test_killed_in_every_phase(start, whole, tmp_path):
    """SIGKILL at three moments of one run: the fourth process ends with the same bytes."""
    workdir = tmp_path / "run"
    for moment, there in MOMENTS.items():
        run = start(workdir)
        run.until(lambda there=there: there(workdir / "checkpoints"))
        code, _, stderr = run.end(signal.SIGKILL)
        assert code == -signal.SIGKILL, moment
        assert "Traceback" not in stderr, moment
    code, _, stderr = start(workdir).end()
    assert code == 0, stderr
    assert same_results(workdir, whole[0])
    for name in ("samples/verifier=oracle.jsonl", "models/verifier=oracle/model.safetensors"):
        assert (workdir / name).read_bytes() == (whole[0] / name).read_bytes()


@pytest.mark.long
def test_terminated_while_learning(start, whole, tmp_path):
    workdir = tmp_path / "run"
    run = start(workdir)
    run.until(lambda: MOMENTS["learning"](workdir / "checkpoints"))
    code, stdout, stderr = run.end(signal.SIGTERM)
    assert code == 0, stderr
    assert "all of it is saved" in stdout
    code, stdout, stderr = Run(how_to_go_on(stdout, MODULE), tmp_path / "said", module=MODULE).end()
    assert code == 0, stderr
    assert same_results(workdir, whole[0])
    steps = [(x["element"], x["generation"], x["step"]) for x in lines(workdir) if "step" in x]
    assert len(set(steps)) == len(steps)


def test_a_flipped_bit_in_a_checkpoint(start, whole, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    folder = workdir / "checkpoints" / "verifier=oracle" / "2"
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (workdir / "results.nc").unlink()
    code, _, stderr = start(workdir).end()
    assert code == 0, stderr
    assert str(folder) in stderr and file.name in stderr and "Traceback" not in stderr
    assert same_results(workdir, whole[0])


@pytest.mark.parametrize(
    "more, says",
    [
        (["--config.verifer=oracle"], "config.verifer = 'oracle': is no field; choices: data"),
        (["--config.heads=3"], "config.heads = 3: must divide width, which is 16"),
        (["--config.n=10000"], "training pairs, of which n_real = 40 learn and n = 10000 are"),
        (["--config.n_real=10000"], "config.n_real = 10000: "),
        (["--config.batch=7"], "config.batch = 7: must be a multiple of the"),
        (["--config.threshold=0.3"], "config.threshold = 0.3: nothing reads it with"),
        (["--config.data="], "config.data = '': there is no such file or folder; `python"),
        (
            ["--config.data=/nowhere/at/all"],
            "config.data = '/nowhere/at/all': there is no such file or folder; `python -m launch.",
        ),
        (["--verifier=oracle"], "Unknown command line flag 'verifier'; fields begin with --config"),
        (
            ["--config.initial=pretrained", "--config.model=nowhere"],
            "config.model = 'nowhere': nowhere: is no folder",
        ),
    ],
)
def test_bad_specs_are_refused_before_anything_is_done(start, tmp_path, more, says):
    if "--config.initial=pretrained" in more:
        own = ("vocabulary", "width", "layers", "heads", "kv_heads", "feed_forward")
        argv = [arg for arg in SMALL if not arg.startswith(tuple(f"--config.{n}=" for n in own))]
        argv += [*more, f"--workdir={tmp_path / 'run'}", "--config.n=500", "--config.n_real=100"]
        run = Run(argv, tmp_path / "said", module=MODULE)
    else:
        run = start(tmp_path / "run", *more)
    code, _, stderr = run.end()
    assert code == 2, stderr
    assert says in one_error(stderr)
    assert not (tmp_path / "run").exists()
