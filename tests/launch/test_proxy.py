import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launch(*args, **environment):
    return subprocess.run(
        [sys.executable, "-m", "launch.proxy", *args],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


@pytest.fixture
def sample(tmp_path):
    """300 right and 100 wrong; 240 and 20 of them kept: φ = 0.8, ψ = 0.2, p* = 0.8."""
    path = tmp_path / "sample.jsonl"
    counts = {("true", "true"): 240, ("true", "false"): 60, ("0", "1"): 20, ("0", "0"): 80}
    with path.open("w") as file:
        for (correct, kept), count in counts.items():
            file.write(f'{{"correct": {correct}, "kept": {kept}}}\n' * count)
    return path


def test_table(sample):
    done = launch(f"--data={sample}", PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert rows["examples"][1:] == ["400", "300", "100"]
    assert rows["kept"][1:] == ["260", "240", "20"]
    estimates = {symbol: rows[symbol][-4] for symbol in ("p", "φ", "ψ", "p*", "right,")}
    assert estimates == {
        "p": "0.2500",
        "φ": "0.8000",
        "ψ": "0.2000",
        "p*": "0.8000",
        "right,": "0.9231",
    }
    assert "predicted to help" in done.stdout


def test_a_terminal_without_greek(sample):
    done = launch(f"--data={sample}", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "kept, if right" in done.stdout


def test_help_shows_the_file():
    shown = launch("--help").stdout
    assert '{"correct": true, "kept": true}' in shown
    assert "--data" in shown


@pytest.mark.parametrize(
    "args,said",
    [
        ([], "needs --data=FILE.jsonl"),
        (["--data="], "flag --data=: must name a file or folder, and is empty"),
        (["sample.jsonl"], "unexpected argument 'sample.jsonl'"),
        (["--dta=sample.jsonl"], "Unknown command line flag 'dta'"),
        (["--data=nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["--data={tmp}"], "not a regular file"),
        (["--data={tmp}/fifo"], "not a regular file"),
        (["--data={tmp}/binary"], "line 1 is not UTF-8"),
        (["--data={tmp}/empty"], "no examples"),
        (["--data={tmp}/malformed"], "1 malformed of 1 lines (line 1)"),
    ],
)
def test_errors_are_one_line(tmp_path, args, said):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "binary").write_bytes(b"\x80\x81")
    (tmp_path / "empty").touch()
    (tmp_path / "malformed").write_text("correct, kept\n")
    done = launch(*(arg.format(tmp=tmp_path) for arg in args))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
