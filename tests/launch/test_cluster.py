"""launch/cluster: its scripts are run, against programs that stand for the clusters."""

import copy
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from launched import ROOT, Run, one_error, same_results, saved, seeds

CLUSTER = ROOT / "launch" / "cluster"
SCRIPTS = [CLUSTER / "tpu_pod.sh", CLUSTER / "slurm.sbatch"]

# Beside this file, which pytest imports by its path.
_found = importlib.util.spec_from_file_location("stubs", Path(__file__).with_name("stubs.py"))
stubs = importlib.util.module_from_spec(_found)
_found.loader.exec_module(stubs)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    for check in (["bash", "-n"], [Path(sys.executable).with_name("shellcheck"), "--norc"]):
        done = subprocess.run([*check, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# attempt


def attempt(code: str, tmp_path, **how) -> subprocess.Popen:
    (tmp_path / "said.py").write_text(code)
    command = [sys.executable, "-m", "launch.cluster.attempt", "said"]
    where = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    return subprocess.Popen(command, env=where, stdout=subprocess.PIPE, text=True, **how)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("print('results: x')", 0),
        ("print('Stopped: saved. To go on:')", 75),
        ("print('Stopped: saved.'); raise SystemExit(1)", 1),
        ("raise SystemExit(2)", 2),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
def test_an_attempt_that_stopped_is_to_be_made_again(code, wanted, tmp_path):
    with attempt(code, tmp_path) as process:
        process.communicate()
    assert process.returncode == wanted


def test_an_attempt_passes_sigterm_on(tmp_path):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('Stopped: saved')))\n"
        "print('begun', flush=True)\ntime.sleep(60)"
    )
    with attempt(code, tmp_path) as process:
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        assert process.stdout.read() == "Stopped: saved\n"
    assert process.returncode == 75


# SLURM


def test_sbatch_knows_every_option():
    options = stubs.batch_options((CLUSTER / "slurm.sbatch").read_text())
    assert options["signal"] == "TERM@300" and "requeue" in options
    for wrong in ("--ntask=2", "--requeue=yes", "--time", "--signal=TERM:300", "-N 2"):
        with pytest.raises(ValueError, match="sbatch: "):
            stubs.batch_options(f"#!/bin/bash\n#SBATCH {wrong}\n")
    for late in ("echo\n#SBATCH --requeue", "#SBATCH --requeue\n#SBATCH --requeue"):
        with pytest.raises(ValueError, match=r"twice|after"):
            stubs.batch_options(f"#!/bin/bash\n{late}\n")


def submitted(tmp_path, argv, job=7, **more) -> subprocess.Popen:
    where = stubs.install(tmp_path, "sbatch", "srun", "scontrol") | {"JOB": str(job)} | more
    return subprocess.Popen(
        ["sbatch", *argv],
        cwd=ROOT,
        env=where,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize(
    ("ends", "code", "requeued"), [("0", 0, 0), ("75 0", 0, 1), ("75 75 0", 0, 2), ("75 1", 1, 1)]
)
@pytest.mark.parametrize("array", [False, True])
def test_slurm_requeues_what_stopped_alone(ends, code, requeued, array, tmp_path):
    (tmp_path / "ends").write_text("\n".join(ends.split()) + "\n")
    says = f'#!/bin/sh\ncd {tmp_path}\nend=$(head -1 ends)\nsed -i 1d ends\nexit "$end"\n'
    stubs.executable(tmp_path / "python", says)
    argv = [*(["--array=3"] if array else []), "--nodes=1", "--ntasks-per-node=1"]
    argv += [str(SCRIPTS[1]), "launch.sweep", "run", "--workdir=a folder"]
    with submitted(tmp_path, argv, PYTHON=str(tmp_path / "python")) as job:
        said, _ = job.communicate(timeout=60)
    assert job.returncode == code, said
    asked = [call[1:] for call in stubs.calls(tmp_path) if call[0] == "scontrol"]
    assert asked == [["requeue", "7_3" if array else "7"]] * requeued
    ran = next(call[2:] for call in stubs.calls(tmp_path) if call[0] == "srun")
    assert ran == ["-m", "launch.cluster.attempt", "launch.sweep", "run", "--workdir=a folder"]


@pytest.mark.slow
@pytest.mark.long
def test_a_real_run_of_two_tasks_is_stopped_requeued_and_done(single, tmp_path):
    """JAX finds the processes by SLURM's variables; the result is one process's to the bit."""
    workdir = tmp_path / "run"
    argv = ["--nodes=1", "--ntasks-per-node=2", str(SCRIPTS[1])]
    argv += ["launch.mixture", *seeds(36, 1), f"--workdir={workdir}", "--distributed"]
    for number in range(4096):  # JAX's port follows from the job's number
        with socket.socket() as free:
            if free.connect_ex(("localhost", 61440 + number)):
                break
    with submitted(tmp_path, argv, job=number, PYTHON=sys.executable) as job:
        while len(saved(workdir)) < 3:
            assert job.poll() is None, job.stdout.read()
            time.sleep(0.01)
        os.kill(int((tmp_path / "step").read_text()), signal.SIGTERM)
        said, _ = job.communicate(timeout=100)
    assert job.returncode == 0, said
    assert said.count("Stopped: ") == said.count("goes back into the queue") == 1
    assert [call[0] for call in stubs.calls(tmp_path)] == ["sbatch", "srun", "scontrol", "srun"]
    assert same_results(workdir, single)


# Cloud TPU


@pytest.fixture
def pod(tmp_path):
    """Run tpu_pod.sh, in a checkout of its own: how the slice fares -> code, output, calls."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", tmp_path / "checkout"]
    (tmp_path / "checkout" / "launch" / "cluster").mkdir(parents=True)
    script = shutil.copy(SCRIPTS[0], tmp_path / "checkout" / "launch" / "cluster")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    where = stubs.install(tmp_path, "gcloud")
    where |= {"NAME": "s", "ZONE": "us-east5-b", "PAUSE": "0"}
    where["SLICE"] = "--accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e --spot"
    stubs.executable(tmp_path / "bin" / "python3", "#!/bin/sh\n")
    stubs.executable(tmp_path / "bin" / "mountpoint", '#!/bin/sh\necho "$@" >~/mounted\n')
    python = '#!/bin/sh\nprintf "%s\\n" "$@" >~/ran\nexit "$CODE"\n'
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "python").write_text(python)
    uv = "#!/bin/sh\nmkdir -p .venv/bin && cp ~/python .venv/bin/python && chmod +x .venv/bin/*\n"
    stubs.executable(tmp_path / "host" / ".local" / "bin" / "uv", uv)

    argv = ("launch.mixture", "--workdir=/mnt/share/a b")

    def run(runs, requests=(), states=(), argv=argv, share="10.0.0.2:/runs"):
        plan = {"runs": runs, "requests": list(requests), "states": list(states)}
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        done = subprocess.run(
            [script, *argv],
            env=where | {"SHARE": share},
            capture_output=True,
            text=True,
            timeout=60,
        )
        made = [
            call[4] for call in stubs.calls(tmp_path) if call[3:5] != ["queued-resources", "list"]
        ]
        made = [call[4] for call in stubs.calls(tmp_path) if call[4] != "list"]
        return done.returncode, done.stdout + done.stderr, made

    return run


COMES = ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


def test_a_slice_comes_runs_and_goes(pod, tmp_path):
    code, said, made = pod([[0, "ACTIVE"]], [COMES])
    assert code == 0, said
    assert made == ["create", "scp", "ssh", "delete"]
    assert [*map(said.count, ("ABSENT", "ACCEPTED", "PROVISIONING"))] == [1, 1, 1]
    ran = (tmp_path / "host" / "ran").read_text().splitlines()
    assert ran == ["-m", "launch.cluster.attempt", "launch.mixture", "--workdir=/mnt/share/a b"]
    assert not (tmp_path / "host" / "run.pid").exists()
    assert (tmp_path / "host" / "mounted").read_text() == "-q /mnt/share\n"


def test_a_bucket_needs_no_share(pod, tmp_path):
    code, said, made = pod([], share="")
    assert code != 0 and not made
    assert "SHARE: HOST:FOLDER of an NFS server, or --workdir=gs://" in said
    argv = ("launch.mixture", "--workdir=gs://bucket/run")
    code, said, _ = pod([[0, "ACTIVE"]], [COMES], argv=argv, share="")
    assert code == 0, said
    assert not (tmp_path / "host" / "mounted").exists()


@pytest.mark.parametrize(("code", "times"), [(1, 3), (75, 1), (-1, 1)])
def test_a_preempted_slice_is_asked_for_again(code, times, pod):
    runs = [*[[code, "SUSPENDED"]] * times, [0, "ACTIVE"]]
    code, said, made = pod(runs, [COMES] * len(runs))
    assert code == 0, said
    assert made == ["create", "scp", "ssh", "delete"] * len(runs)


def test_a_run_that_was_stopped_goes_on_where_it_is(pod):
    code, said, made = pod([*[[75, "ACTIVE"]] * 3, [0, "ACTIVE"]], states=["ACTIVE"])
    assert code == 0, said
    assert made == ["scp", "ssh"] * 4 + ["delete"]


@pytest.mark.parametrize(("code", "times"), [(1, 3), (-1, 3), (2, 1)])
def test_a_run_that_fails_by_itself_ends(code, times, pod):
    ended, said, made = pod([[code, "ACTIVE"]] * 9, [COMES])
    assert ended == 1 and ("failed 3 times" in said or "cannot be run" in said)
    assert made == ["create", *["scp", "ssh"] * times, "delete"]


def test_a_request_that_fails_ends(pod):
    code, said, made = pod([], [["ACCEPTED", "FAILED"]] * 9)
    assert code == 1 and "failed 3 times in a row" in said
    assert made == ["create", "delete"] * 3 + ["delete"]
    code, said, _ = pod([], [])
    assert code == 1 and "not to be had with --accelerator-type=v6e-16" in said


def test_what_a_lost_connection_left_running_is_ended(pod, tmp_path):
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as left:
        (tmp_path / "host" / "run.pid").write_text(str(left.pid))
        code, said, _ = pod([[0, "ACTIVE"]], states=["ACTIVE"])
        assert code == 0, said
        assert left.wait(5) == -signal.SIGKILL


# GKE


@pytest.fixture(scope="module")
def documents() -> dict[str, dict]:
    read = yaml.safe_load_all((CLUSTER / "gke.yaml").read_text())
    return {document["kind"]: document for document in read}


@pytest.fixture(scope="module")
def schema():
    content = json.loads(Path(__file__).with_name("schema").joinpath("gke.json").read_text())
    return jsonschema.Draft202012Validator(content)


def jobs(documents) -> list[dict]:
    inner = documents["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    return [inner, documents["Job"]["spec"]]


def test_the_documents_are_of_their_kinds(documents, schema):
    assert [*documents] == ["PersistentVolumeClaim", "JobSet", "Job"]
    for document in documents.values():
        schema.validate(document)
    wrong = [copy.deepcopy(documents) for _ in range(4)]
    jobs(wrong[0])[0]["completion"] = 4
    jobs(wrong[1])[0]["template"]["spec"]["containers"][0]["arguments"] = []
    wrong[2]["JobSet"]["spec"]["failurePolicy"]["maxRestarts"] = "100"
    jobs(wrong[3])[0]["podFailurePolicy"]["rules"][0]["action"] = "FailJobs"
    for other in wrong:
        assert not schema.is_valid(other["JobSet"])


def test_the_jobs_fit_their_slices_and_each_other(documents):
    claim = documents["PersistentVolumeClaim"]["metadata"]["name"]
    for job in jobs(documents):
        pod = job["template"]["spec"]
        labels = pod["nodeSelector"]
        chips = 1
        for side in labels["cloud.google.com/gke-tpu-topology"].split("x"):
            chips *= int(side)
        (container,) = pod["containers"]
        hosts = chips // container["resources"]["limits"]["google.com/tpu"]
        indexed = job.get("completionMode") == "Indexed"
        assert hosts == (1 if indexed else job["parallelism"])
        assert indexed or job["parallelism"] == job["completions"]
        assert ("backoffLimitPerIndex" in job) == indexed
        assert pod["restartPolicy"] == "Never"  # as podFailurePolicy needs it
        assert pod["terminationGracePeriodSeconds"] > 60
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        (mount,) = container["volumeMounts"]
        workdir = next(word for word in container["args"] if word.startswith("--workdir="))
        assert workdir.startswith(f"--workdir={mount['mountPath']}/")


def test_the_launcher_knows_the_flags_of_the_run(documents, tmp_path):
    container = jobs(documents)[0]["template"]["spec"]["containers"][0]
    *before, module = container["command"]
    assert before == ["python", "-m", "launch.cluster.attempt"]
    code, _, stderr = Run([*container["args"], "--config.n=0"], tmp_path, module=module).end()
    assert code == 2 and "config.n = 0" in one_error(stderr)  # read, and --distributed not yet
