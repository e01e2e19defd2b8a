"""Programs that stand for `gcloud`, `sbatch`, `srun` and `scontrol`, on the PATH of a test.

They refuse what the real ones would not understand, keep what they were asked in calls.jsonl, and
do on this machine what a cluster would do on many.
"""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

# The long options of sbatch (SLURM 24.05) that a script of ours could want; a value follows unless
# the name is in BARE.
SBATCH = """
    account acctg-freq array begin chdir clusters comment constraint cores-per-socket cpu-freq
    cpus-per-gpu cpus-per-task deadline dependency error exclude exclusive export gpu-bind gpu-freq
    gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint hold input job-name
    licenses mail-type mail-user mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice
    no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node
    ntasks-per-socket open-mode output overcommit oversubscribe partition prefer priority qos
    requeue reservation signal sockets-per-node spread-job switches thread-spec threads-per-core
    time time-min tmp wait wait-all-nodes wckey wrap
"""
BARE = {"hold", "no-requeue", "overcommit", "requeue", "spread-job", "wait"}
FORMS = {
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
    "signal": r"(B:)?[A-Z0-9]+(@\d{1,5})?",
    "array": r"\d+(-\d+(:\d+)?)?(,\d+(-\d+)?)*(%\d+)?",
    "open-mode": r"append|truncate",
}


def option(text: str) -> tuple[str, str | None]:
    """Name and value of one option of sbatch."""
    found = re.fullmatch(r"--([a-z-]+)(?:=(\S+))?", text)
    if not found or found[1] not in SBATCH.split() or (found[2] is None) != (found[1] in BARE):
        raise ValueError(f"sbatch: unrecognized option '{text}'")
    if found[1] in FORMS and not re.fullmatch(FORMS[found[1]], found[2]):
        raise ValueError(f"sbatch: invalid value '{text}'")
    return found[1], found[2]


def batch_options(script: str) -> dict[str, str | None]:
    """The options of the #SBATCH lines, each of which must come before the first command."""
    first, *rest = script.splitlines()
    if not first.startswith("#!"):
        raise ValueError("sbatch: this does not look like a batch script")
    found, begun = {}, False
    for line in rest:
        if line.startswith("#SBATCH "):
            if begun:
                raise ValueError(f"after the first command, where it is ignored: {line}")
            name, value = option(line.removeprefix("#SBATCH "))
            if name in found:
                raise ValueError(f"twice: {line}")
            found[name] = value
        elif "SBATCH " in line and line.startswith("#") and "sbatch" not in line:
            raise ValueError(f"no option, though it looks like one: {line}")
        begun |= bool(line.strip()) and not line.startswith("#")
    return found


GCLOUD = {
    "queued-resources list": {"zone", "quiet", "filter", "format"},
    "queued-resources create": {
        *("zone", "quiet", "node-id", "accelerator-type", "topology", "type", "runtime-version"),
        *("spot", "reserved", "guaranteed", "network", "subnetwork", "internal-ips"),
    },
    "queued-resources delete": {"zone", "quiet", "force", "async"},
    "tpu-vm scp": {"zone", "quiet", "worker"},
    "tpu-vm ssh": {"zone", "quiet", "worker", "command"},
}


class Gcloud:
    """A zone with one slice, of which plan.json says how it fares.

    "requests": the states that each request for a slice goes through; "runs": for each run, what
    it ends with and the slice's state then.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, argv: list[str]) -> int:
        said(self.folder, "gcloud", argv)
        assert argv[:2] == ["compute", "tpus"], argv
        words = [word for word in argv[2:] if not word.startswith("--")]
        flags = dict(word[2:].partition("=")[::2] for word in argv[2:] if word.startswith("--"))
        what, words = " ".join(words[:2]), words[2:]
        if unknown := set(flags) - GCLOUD[what]:
            print(f"ERROR: (gcloud) unrecognized arguments: {unknown}", file=sys.stderr)
            return 2
        assert flags["zone"]
        file = self.folder / "plan.json"
        plan = json.loads(file.read_text())
        code = getattr(self, what.split()[1])(plan, words, flags)
        file.write_text(json.dumps(plan))
        return code

    def list(self, plan, words, flags) -> int:
        if flags["format"] == "value(name)":
            return 0
        states = plan["states"]
        if states:
            print(states[0])
            if len(states) > 1:
                states.pop(0)
        return 0

    def create(self, plan, words, flags) -> int:
        assert not plan["states"], "there is one already"
        assert len(words) == 1 and flags["node-id"] and flags["runtime-version"]
        assert ("accelerator-type" in flags) != ({"topology", "type"} <= set(flags))
        if not plan["requests"]:
            return 1
        plan["states"] = plan["requests"].pop(0)
        return 0

    def delete(self, plan, words, flags) -> int:
        plan["states"] = []
        return 0

    def scp(self, plan, words, flags) -> int:
        if plan["states"] != ["ACTIVE"]:
            return 1
        source, target = words
        home = self.folder / "host"
        (home / target.partition(":")[2]).write_bytes(Path(source).read_bytes())
        return 0

    def ssh(self, plan, words, flags) -> int:
        if plan["states"] != ["ACTIVE"]:
            return 255
        assert flags["worker"] == "all"
        code, state = plan["runs"].pop(0)
        home = self.folder / "host"
        ended = subprocess.run(
            ["bash", "-c", flags["command"]],
            env={**os.environ, "HOME": str(home), "CODE": str(code)},
            start_new_session=True,
        )
        plan["states"] = [state]
        return 255 if code < 0 else ended.returncode


def sbatch(folder: Path, argv: list[str]) -> int:
    """Run the script as SLURM would, again for as long as it asks for that."""
    said(folder, "sbatch", argv)
    split = next(i for i, word in enumerate(argv) if not word.startswith("--"))
    script = Path(argv[split])
    options = batch_options(script.read_text()) | dict(map(option, argv[:split]))
    job = os.environ["JOB"]
    environment = {**os.environ, "SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "localhost"}
    environment["SLURM_NTASKS"] = options["ntasks-per-node"]
    environment["SLURM_CPUS_PER_TASK"] = options["cpus-per-task"]
    if "array" in options:
        environment |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": options["array"]}
    for _ in range(5):
        code = subprocess.run(["bash", script, *argv[split + 1 :]], env=environment).returncode
        again = folder / "requeued"
        if not again.exists():
            return code
        again.unlink()
    return 99


def srun(folder: Path, argv: list[str]) -> int:
    """As many copies as tasks, each in a process group, all of which SIGTERM reaches."""
    said(folder, "srun", argv)
    tasks = []
    count = int(os.environ["SLURM_NTASKS"])
    for i in range(count):
        about = {
            "SLURM_PROCID": str(i),
            "SLURM_LOCALID": str(i),
            "SLURM_STEP_NODELIST": "localhost",
        }
        where = {**os.environ, **about}
        tasks.append(subprocess.Popen(argv, env=where, process_group=0))
    signal.signal(signal.SIGTERM, lambda *_: [os.killpg(t.pid, signal.SIGTERM) for t in tasks])
    (folder / "step").write_text(str(os.getpid()))
    return max(code if (code := task.wait()) >= 0 else 128 - code for task in tasks)


def scontrol(folder: Path, argv: list[str]) -> int:
    said(folder, "scontrol", argv)
    assert argv[0] == "requeue" and len(argv) == 2
    (folder / "requeued").touch()
    return 0


def said(folder: Path, program: str, argv: list[str]) -> None:
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps([program, *argv]) + "\n")


def calls(folder: Path) -> list[list[str]]:
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def install(folder: Path, *programs: str) -> dict[str, str]:
    """Put programs into folder/bin; the environment in which they come first."""
    for name in programs:
        call = [sys.executable, "-I", "-S", str(Path(__file__)), str(folder), name]
        executable(folder / "bin" / name, f'#!/bin/sh\nexec {shlex.join(call)} "$@"\n')
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


if __name__ == "__main__":
    place, name, *rest = sys.argv[1:]
    programs = {"gcloud": Gcloud(Path(place)), "sbatch": sbatch, "srun": srun, "scontrol": scontrol}
    run = programs[name]
    sys.exit(run(rest) if name == "gcloud" else run(Path(place), rest))
