"""`python -m launch.mixture`: what it survives."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from launched import SMALL, Run, chunks, how_to_go_on, one_error, same_results, saved, seeds

from synthjax.io import results
from synthjax.io.processes import FAILED, REFUSED

pytestmark = pytest.mark.slow


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
    assert len(saved(workdir)) >= sum(more - 1 for more, _ in moments[1:]) > 5
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
        figure.with_name(f"{figure.name}.partial").symlink_to("/dev/full")
    return 0


@pytest.mark.parametrize(
    "victim", ["spec.json", "checkpoints", "metrics.jsonl", "results.nc", "figures"]
)
def test_a_full_disk(launch, few, used, victim):
    limit = fill(used, victim)
    kept = saved(used)
    code, _, stderr = launch(seeds(4), limit=limit).end()
    said = one_error(stderr)
    assert code == FAILED  # there may be room another time
    assert str(used) in said
    assert victim in said or victim == "spec.json"
    assert kept <= saved(used)
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
    assert code == REFUSED
    assert str(path) in one_error(stderr)
