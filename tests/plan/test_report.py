"""What `--search` says of meshes."""

import io

import jax
from rich.console import Console

from configs import eigen
from synthjax.plan import report
from synthjax.plan.cost import Cost
from synthjax.plan.programs import programs
from synthjax.plan.work import Work

RUNS = {"training step": 100, "decoding": 10}
# Seconds of each by the mesh's `data`; None does not fit.
SECONDS = {8: (3.0, 1.0), 4: (1.0, 30.0), 2: (None, 0.1), 1: (2.0, 2.0)}


def step(name, seconds):
    about = dict(arguments=0, temporaries=0, outputs=0, code=0, limit=2**34, seconds=0)
    about |= dict(needed=0 if seconds else 2**35, work=Work(197e12 * (seconds or 0), 0, 0))
    return Cost(name, "TPU v5 lite", 8, {}, 0, **about, runs=RUNS[name])


def test_meshes_by_what_a_generation_takes(monkeypatch):
    """Each program as often as it runs; what does not fit comes last, whatever else it takes."""

    def one(spec, *_):
        data = spec.mesh["data"]
        costs = [step(*pair) for pair in zip(RUNS, SECONDS[data], strict=True)]
        return costs, [data]

    sizes = [{"data": n, "fsdp": 1, "tensor": 8 // n} for n in SECONDS]
    monkeypatch.setattr(report, "meshes", lambda *_: sizes)
    monkeypatch.setattr(report, "_one", one)
    out = io.StringIO()
    found = report.planned(eigen.paper(), None, True, Console(file=out, width=200))
    assert found == [1, 8, 4, 2]
    rows = [line for line in out.getvalue().splitlines() if "data " in line]
    assert [int(row.split("data ")[1].split()[0]) for row in rows] == found
    assert all(seconds in row for seconds, row in zip(("220", "310", "400"), rows, strict=False))
    assert "NO" in rows[3] and not any("NO" in row for row in rows[:3])


def test_how_often_a_generation_runs_each():
    spec = eigen.paper()
    found = {one.name: one.runs for one in programs(spec, jax.devices("cpu")[:1])}
    assert found["training step"] == spec.generation_steps
    assert found["decoding"] == -(-spec.n // spec.decode_batch)
