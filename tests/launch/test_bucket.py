"""Runs whose folder is in a bucket."""

import signal

import pytest
from eigen.tiny import TINY as eigen_tiny
from launched import Run, assert_alike, chunks, one_error, same_results, saved, seeds, undisturbed
from summarize.tiny import TINY as summarize_tiny
from summarize.tiny import written

from synthjax.io.processes import FAILED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A run of 12 chunks in a folder that nothing disturbed: the workdir."""
    return undisturbed(seeds(12, 1), tmp_path_factory.mktemp("here"))


def listed(workdir):
    """The files of a run but for what differs between two: TensorBoard's carry the time."""
    names = {str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file()}
    # Of Orbax's, those of data are named at random; a bucket has one that says that all is there.
    kept = {n for n in names if "/d/" not in n and not n.endswith("commit_success.txt")}
    return {n for n in kept if not n.startswith("tb/")}


def test_killed_in_a_bucket_damaged_and_gone_on_with(here, bucket, tmp_path):
    """Ends with the bytes that a run in a folder has."""
    workdir = bucket.files / "run"
    argv = [*seeds(12, 1), "--workdir=gs://bucket/run"]
    run = Run(argv, tmp_path / "said")
    run.until(lambda: len(saved(workdir)) > 1)
    assert run.end(signal.SIGKILL)[0] == -signal.SIGKILL
    damaged = next((workdir / "checkpoints" / "0" / "d").iterdir())
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    code, stdout, stderr = Run(argv, tmp_path / "said").end()
    assert code == 0, stderr
    assert "gs://bucket/run/results.nc" in stdout and "gs://bucket/run/figures/" in stdout
    assert f"gs://bucket/run/checkpoints/0: 'd/{damaged.name}' has changed" in stderr
    assert same_results(workdir, here)
    assert listed(workdir) == listed(here)
    assert set(chunks(workdir)) <= set(range(12))  # a kill may cost lines


@pytest.mark.long
def test_stopped_in_a_bucket_nothing_is_missing(here, bucket, tmp_path):
    workdir = bucket.files / "stopped"
    argv = [*seeds(12, 1), "--workdir=gs://bucket/stopped"]
    run = Run(argv, tmp_path / "said")
    run.until(lambda: len(saved(workdir)) > 0)
    code, stdout, stderr = run.end(signal.SIGTERM)
    assert code == 0, stderr
    assert "Stopped: " in stdout
    assert set(chunks(workdir)) == saved(workdir)
    assert Run(argv, tmp_path / "said").end()[0] == 0
    assert sorted(chunks(workdir)) == list(range(12))
    assert same_results(workdir, here)


@pytest.mark.long
@pytest.mark.parametrize("task", ["eigen", "summarize"])
def test_transformers_in_a_bucket(task, bucket, tmp_path):
    """Killed while learning: the results, models, samples and figures of a run in a folder."""
    size = {**(eigen_tiny if task == "eigen" else summarize_tiny), "generations": 1}
    argv = [f"--config=configs/{task}.py:demo", "--config.sweep.verifier=('oracle',)"]
    argv += [f"--config.{name}={value}" for name, value in size.items()]
    if task == "summarize":
        argv += ["--config.selection=top", f"--config.data={written(tmp_path / 'pairs.jsonl')}"]
    module, workdir = f"launch.{task}", bucket.files / task
    run = Run([*argv, f"--workdir={tmp_path / 'here'}"], tmp_path / "said", module=module)
    assert run.end()[0] == 0, run.read("stderr")
    argv.append(f"--workdir=gs://bucket/{task}")
    run = Run(argv, tmp_path / "said", module=module)
    run.until(lambda: bool([*workdir.glob("checkpoints/**/learning/*/manifest.json")]))
    assert run.end(signal.SIGKILL)[0] == -signal.SIGKILL
    code, _, stderr = Run(argv, tmp_path / "said", module=module).end()
    assert code == 0, stderr
    assert same_results(workdir, tmp_path / "here")
    assert listed(workdir) == listed(tmp_path / "here")
    for path in (tmp_path / "here").glob("models/**/*"):
        there = workdir / path.relative_to(tmp_path / "here")
        assert path.is_dir() or path.read_bytes() == there.read_bytes()
    assert [*workdir.glob("tb/**/events*")]


@pytest.mark.long
def test_two_processes_in_a_bucket(here, bucket, together):
    for run in together(seeds(12, 1), "gs://bucket/two"):
        code, _, stderr = run.end()
        assert code == 0, stderr
    assert same_results(bucket.files / "two", here)


@pytest.mark.long
def test_an_outage_ends_both_processes_for_another_try(here, bucket, together):
    """Not as refused: a cluster's scripts run the same command again, and it goes on."""
    workdir = bucket.files / "outage"
    runs = together(seeds(12, 1), "gs://bucket/outage")
    runs[0].until(lambda: len(saved(workdir)) > 2)
    bucket.down.touch()
    try:
        for code, _, stderr in (run.end() for run in runs):
            assert code == FAILED and "error: " in stderr and "503" in stderr, stderr
    finally:
        bucket.down.unlink()
    assert 2 < len(saved(workdir)) < 12
    for run in together(seeds(12, 1), "gs://bucket/outage"):
        code, _, stderr = run.end()
        assert code == 0, stderr
    assert same_results(workdir, here)


@pytest.mark.long
def test_a_sweep_of_jobs_in_a_bucket(here, bucket, tmp_path):
    def sweep(*argv):
        argv = [*argv, "--workdir=gs://bucket/sweep"]
        code, stdout, stderr = Run(argv, tmp_path / "said", module="launch.sweep").end()
        assert code == 0, stderr
        return stdout

    assert "gs://bucket/sweep/manifest.json" in sweep("split", *seeds(12, 1), "--jobs=2")
    for index in range(2):
        sweep("run", f"--index={index}")
    sweep("merge")
    assert_alike(bucket.files / "sweep", here)


@pytest.mark.parametrize(
    ("workdir", "reason"),
    [
        ("s3://bucket/run", "must be a folder, here or as gs://BUCKET/FOLDER"),
        ("gs://nothing/run", "gs://nothing/run: cannot be used"),
    ],
)
def test_buckets_that_cannot_be_used(workdir, reason, bucket, tmp_path):
    code, _, stderr = Run([*seeds(2), f"--workdir={workdir}"], tmp_path / "said").end()
    assert code == 2 and reason in one_error(stderr)
