import json
import resource
import subprocess
from pathlib import Path

import jax
import pytest

from synthjax.io import storage
from synthjax.io.workdir import PACKAGES, Workdir, WorkdirError, provenance

SPEC = {"n": 10, "l2": 0.5, "verifier": "none", "memory_gb": 1.0, "sweep": {"p": [0.1, 0.2]}}


def test_what_spec_json_holds(tmp_path):
    path = tmp_path / "deep" / "run"
    place = Workdir(path, SPEC, facts=lambda begun: {"chunk_work": 7})
    written = json.loads((path / "spec.json").read_text())
    assert place.path == path
    assert place.stages == [written]
    assert written["spec"] == SPEC
    assert written["chunk_work"] == 7
    assert written | provenance() == written
    assert [file.name for file in path.iterdir()] == ["spec.json"]


def test_provenance():
    found = provenance()
    assert set(found["versions"]) == set(PACKAGES)
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["synthjax"]
    assert found["device"] == f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
    root = Path(__file__).parents[2]
    head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        assert head.stdout.startswith(found["git_commit"].removesuffix("-dirty"))
    else:
        assert found["git_commit"] is None


def test_no_git_is_no_error(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance()["git_commit"] is None


def test_the_same_spec_again(tmp_path):
    """What was recorded when the run began stays, whatever the machine says now."""
    Workdir(tmp_path, SPEC, facts=lambda begun: {"chunk_work": 7})
    before = (tmp_path / "spec.json").read_bytes()
    spec = SPEC | {"sweep": {"p": (0.1, 0.2)}}
    again = Workdir(tmp_path, spec, facts=lambda begun: {"chunk_work": 8})
    assert [stage["chunk_work"] for stage in again.stages] == [7]
    assert (tmp_path / "spec.json").read_bytes() == before


def test_a_spec_that_goes_on(tmp_path):
    """It becomes the newest stage; the older ones stay as they were, and cannot be gone back to."""

    def more(new, begun):
        return new["n"] > begun["n"]

    def was(begun):
        return {"was": begun and begun["n"]}

    for n in (10, 20, 30):
        place = Workdir(
            tmp_path,
            SPEC | {"n": n},
            goes_on=more,
            facts=lambda begun: {"was": begun and begun["n"]},
        )
    assert [stage["spec"]["n"] for stage in place.stages] == [10, 20, 30]
    assert [stage["was"] for stage in place.stages] == [None, 10, 20]
    written = json.loads((tmp_path / "spec.json").read_text())
    assert written["spec"]["n"] == 30
    assert [stage["spec"]["n"] for stage in written["earlier"]] == [10, 20]
    assert Workdir(tmp_path, SPEC | {"n": 30}, goes_on=more).stages == place.stages
    with pytest.raises(WorkdirError, match="n: 30 there, 20 here"):
        Workdir(tmp_path, SPEC | {"n": 20}, goes_on=more)


def test_another_spec_is_refused_with_what_differs(tmp_path):
    Workdir(tmp_path, SPEC, free=())
    before = (tmp_path / "spec.json").read_bytes()
    with pytest.raises(WorkdirError) as caught:
        Workdir(tmp_path, SPEC | {"n": 20, "verifier": "oracle", "sweep": {}}, free=())
    said = str(caught.value)
    assert str(tmp_path) in said
    for differ in (
        "n: 10 there, 20 here",
        "verifier: 'none' there, 'oracle' here",
        "sweep: {'p': [0.1, 0.2]} there, {} here",
    ):
        assert differ in said
    assert said.count(" there, ") == 3
    assert "\n" not in said
    assert (tmp_path / "spec.json").read_bytes() == before


@pytest.mark.parametrize("there,here", [("a", "b"), ("b", "a")])
def test_a_field_of_another_version(tmp_path, there, here):
    """A field that only one of the two has differs too."""
    Workdir(tmp_path, {"n": 1, there: 5}, free=())
    with pytest.raises(WorkdirError) as caught:
        Workdir(tmp_path, {"n": 1, here: 5}, free=())
    assert f"{there}: 5 there, None here" in str(caught.value)
    assert f"{here}: None there, 5 here" in str(caught.value)


def test_a_free_field_may_differ(tmp_path):
    Workdir(tmp_path, SPEC, free=("memory_gb",))
    Workdir(tmp_path, SPEC | {"memory_gb": 9.0}, free=("memory_gb",))
    with pytest.raises(WorkdirError, match=r"memory_gb: 1\.0 there, 9\.0 here"):
        Workdir(tmp_path, SPEC | {"memory_gb": 9.0}, free=())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not JSON",
        b"[1, 2]",
        b"3",
        b"null",
        b"{}",
        b'{"spec": 3}',
        b'{"spec": [1]}',
        b'{"spec": null}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_garbage_for_a_spec(tmp_path, content):
    file = tmp_path / "spec.json"
    file.write_bytes(content)
    with pytest.raises(WorkdirError) as caught:
        Workdir(tmp_path, SPEC, free=())
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize("path", ["/proc/nowhere", "{tmp}/file", "{tmp}/file/deeper", "{tmp}/odd"])
def test_a_place_that_cannot_be_used(tmp_path, path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "odd" / "spec.json").mkdir(parents=True)
    path = path.format(tmp=tmp_path)
    with pytest.raises(WorkdirError) as caught:
        Workdir(path, SPEC, free=())
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_is_whole_or_not_there(tmp_path):
    """And what is left of a failure does not fill the disk further."""
    file = tmp_path / "spec.json"
    storage.write(file, "old\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            storage.write(file, "new\n" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [file]
    storage.write(file, "new\n")
    assert file.read_text() == "new\n"
