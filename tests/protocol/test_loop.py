"""The host loop with a task of a few numbers: order, records, resumption, damage.

The task learns by adding up what it is given, so that any guess, batch or state lost, taken twice
or taken from another generator changes its numbers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.io.stop import Stopped
from synthjax.protocol import loop, training_set
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.loop import Element, Settings
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.training_set import TrainingSet

STEPS, PARTS, B = 5, 3, 4
SETTINGS = Settings(save_steps=2, log_steps=2)
KEY = key(0, Stream.LEARN, 0, 0)


class Killed(BaseException):
    """Nothing that the loop would catch."""


class Rows:
    def __init__(self, values):
        self.values = np.asarray(values)

    def __len__(self):
        return len(self.values)

    def rows(self, indices):
        return self.values[indices]


class Metrics(tuple):
    loss = property(lambda self: self[0])
    skipped = 0

    def _asdict(self):
        return {"loss": self.loss}


class Sums:
    """State and model: {"w": one number}."""

    def __init__(self, generations=2, regime="replace", keep=lambda t, x: x > 0, die=None):
        self.generations, self.regime, self.keep = generations, regime, keep
        self.calls, self.sizes, self.die = [], [], die

    def call(self, *what):
        self.calls.append(what)
        if self.die is not None and len(self.calls) > self.die:
            raise Killed

    def parts(self, t):
        return PARTS

    def guess(self, t, params, part):
        self.call("guess", t, part)
        drawn = np.random.default_rng([t, part]).normal(size=B)
        return {"x": drawn + float(params["w"])}

    def select(self, t, guesses):
        self.call("select", t)
        kept = guesses["x"][self.keep(t, guesses["x"])]
        return {"x": kept}, {"kept": np.asarray(len(kept) / len(guesses["x"]))}

    def kept(self, t, selected):
        return Rows(selected["x"])

    def pool(self, t, kept, past):
        real = Rows(np.arange(1.0, 8.0))
        if t == 0:
            return TrainingSet((real,))
        fresh = Rows([100.0 * t])
        regime = REGIMES[self.regime].call
        return training_set.pool(
            regime, key(0, Stream.SUBSAMPLE, 0, t), 6, kept, [real, *past], fresh
        )

    def steps(self, t):
        return STEPS

    def begin(self, t, params):
        self.call("begin", t)
        return {"w": jnp.asarray(0.1 * t if params is None else params["w"] / 2)}

    def batches(self, t, data, first):
        return training_set.batches(
            data, key(0, Stream.LEARN, 0, t), 3, range(first, STEPS), np.arange(3)
        )

    def learn(self, t, state, groups):
        before = []
        for group in groups:
            self.sizes.append(group.count)
            found = []
            for batch in group.batches[: group.count]:
                self.call("learn", t)
                state = {"w": jnp.sin(3 * state["w"] + batch.astype(np.float32).sum())}
                found.append(Metrics((float(state["w"]),)))
            yield state, before
            before = found
        yield state, before

    def abstract(self, t):
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return {"w": jax.ShapeDtypeStruct((), jnp.float32, sharding=place)}

    def params(self, state):
        return state

    def measure(self, t, params, watchdog):
        watchdog.beat()
        self.call("measure", t)
        return {"w": np.asarray(params["w"])}

    def words(self, record):
        return f"w = {record['w']:.3f}"

    def lower(self, phase):
        return f"lower {phase}"


def run(folder, *tasks, first="first"):
    folder.mkdir(exist_ok=True)
    elements = [Element(f"e{i}", task, first) for i, task in enumerate(tasks)]
    return list(loop.run(elements, folder, SETTINGS))


def numbers(found):
    """All that came out, exactly."""
    return [
        ([{k: v.tolist() for k, v in r.items()} for r in records], float(last["w"]))
        for _, records, _, last in found
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed: its numbers and its calls."""
    task = Sums()
    return numbers(run(tmp_path_factory.mktemp("whole"), task)), task.calls


def test_order_of_a_generation(whole):
    learn = [("begin", 0), *[("learn", 0)] * STEPS, ("measure", 0)]
    for t in (1, 2):
        learn += [("guess", t, part) for part in range(PARTS)]
        learn += [("select", t), ("begin", t), *[("learn", t)] * STEPS, ("measure", t)]
    assert whole[1] == learn


def test_by_hand(tmp_path, whole):
    """The same numbers from a loop written out, without checkpoints."""
    task = Sums()

    def trained(t, data, params):
        state = task.begin(t, params)
        for batch in task.batches(t, data, 0):
            state = {"w": jnp.sin(3 * state["w"] + batch.astype(np.float32).sum())}
        return state

    params = trained(0, task.pool(0, None, ()), None)
    expected = [float(params["w"])]
    for t in (1, 2):
        x = np.concatenate([task.guess(t, params, part)["x"] for part in range(PARTS)])
        params = trained(t, TrainingSet((Rows(x[x > 0]),)), params)
        expected.append(float(params["w"]))
    records, last = whole[0][0]
    assert [record["w"] for record in records] == expected
    assert last == expected[-1]
    assert [record.get("kept") is None for record in records] == [True, False, False]


class Longer(Sums):
    """21 steps instead of 5."""

    def steps(self, t):
        return 21

    def batches(self, t, data, first):
        return training_set.batches(data, KEY, 3, range(first, 21), np.arange(3))


@pytest.fixture
def four(monkeypatch):
    """Four steps in a program, also where there is an accelerator."""
    for module in (loop, training_set):
        monkeypatch.setattr(module, "at_once", lambda: 4)


def logged(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "step" in line]


@pytest.mark.parametrize(
    "save, sizes",
    [
        (6, [4, 2, 2, 4, 4, 2, 2, 1]),
        (1, [1] * 21),
        (3, [3, 1, 2, 2, 1, 3, 3, 1, 2, 2, 1]),
        (100, [4] * 5 + [1]),
    ],
)
def test_steps_of_a_program_end_where_one_is_saved(tmp_path, four, save, sizes):
    """At multiples of 4 and of what `save_steps` says, and at the end of 21."""
    settings = Settings(save_steps=save, log_steps=3)
    task = Longer(generations=0)
    list(loop.run([Element("e", task, "first")], tmp_path, settings))
    assert task.sizes == sizes
    assert logged(tmp_path) == [3, 6, 9, 12, 15, 18, 21]


def test_steps_of_a_program_go_on_from_where_one_was_saved(tmp_path, four):
    """From the 6th; the program that was killed had done 8."""
    settings = Settings(save_steps=6, log_steps=3)
    with pytest.raises(Killed):
        list(loop.run([Element("e", Longer(0, die=10), "first")], tmp_path, settings))
    task = Longer(generations=0)
    list(loop.run([Element("e", task, "first")], tmp_path, settings))
    assert task.sizes == [2, 4, 4, 2, 2, 1]
    assert logged(tmp_path) == [3, 6, 9, 12, 15, 18, 21]


def test_a_stop_loses_no_line_of_the_steps_that_were_done(tmp_path, monkeypatch, four):
    """Asked for in step 6 of 21, of which 5 to 8 are under way: line 8 is there, and so is all."""
    stops = []

    class Stop(loop.GracefulStop):
        def __init__(self):
            super().__init__()
            stops[:] = [self]

    class Interrupted(Longer):
        def call(self, *what):
            super().call(*what)
            stops[0].requested |= len(self.calls) == 7

    monkeypatch.setattr(loop, "GracefulStop", Stop)
    settings = Settings(save_steps=100, log_steps=2)
    with pytest.raises(Stopped, match="8 of 21"):
        list(loop.run([Element("e", Interrupted(generations=0), "first")], tmp_path, settings))
    again = Longer(generations=0)
    list(loop.run([Element("e", again, "first")], tmp_path, settings))
    assert again.sizes == [4, 4, 4, 1]
    assert logged(tmp_path) == [*range(2, 21, 2), 21]


@pytest.mark.slow
@pytest.mark.parametrize(
    "die", [pytest.param(i, marks=pytest.mark.long if i % 2 else ()) for i in range(1, 29)]
)
def test_killed_at_any_call(tmp_path, whole, die):
    """The run ends within a call; another one ends with the same numbers."""
    with pytest.raises(Killed):
        run(tmp_path, Sums(die=die))
    again = Sums()
    assert numbers(run(tmp_path, again)) == whole[0]
    # What was sealed is not done again: of generation 0 at most what came since the last save.
    if die > 1 + STEPS:
        assert ("begin", 0) not in again.calls
    if die > 3 + STEPS + PARTS:
        assert not [call for call in again.calls if call[:2] == ("guess", 1)]
    # And a third finds nothing to do.
    third = Sums()
    assert numbers(run(tmp_path, third)) == whole[0] and not third.calls


STUCK = """
import sys, time
from pathlib import Path
import test_loop
from synthjax.io import watchdog
from synthjax.protocol import loop
watchdog.several = lambda: True
watchdog.Watchdog.TOGETHER, watchdog.Watchdog.EVERY = 1.0, 0.1
watchdog.Watchdog.COMPILING = 3.0  # for what takes half an hour at most
kind, name = sys.argv[2].split(".")
setattr(getattr(test_loop if kind == "Sums" else loop, kind), name, lambda *_: time.sleep(60))
test_loop.run(Path(sys.argv[1]), test_loop.Sums())
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["Sums.select", "Sums.begin", "Checkpoints.restore"])
def test_others_that_wait_are_told_where_it_is_stuck(tmp_path, where):
    """Between phases too, where a process that runs alone may take its time."""
    if where == "Checkpoints.restore":
        run(tmp_path, Sums(generations=1))
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", STUCK, str(tmp_path), where],
        env=os.environ | {"PYTHONPATH": f"{tests.parents[1]}{os.pathsep}{tests}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "is stuck" in done.stderr and "<lambda>" in done.stderr and "loop.py" in done.stderr


class StopAfter(Sums):
    """Asks for a stop in its n-th call, as SIGTERM would."""

    def __init__(self, n, stop):
        super().__init__()
        self.n, self.stop = n, stop

    def call(self, *what):
        super().call(*what)
        if len(self.calls) == self.n:
            self.stop[0].requested = True


@pytest.mark.parametrize("n", [1, 3, 6, 7, 9, 11, 12, 15, 18, 28])
def test_stopped_in_any_phase(tmp_path, whole, monkeypatch, n):
    """It ends after the steps or the call under way, and not one call is made twice."""
    stops = []

    class Stop(loop.GracefulStop):
        def __init__(self):
            super().__init__()
            stops[:] = [self]

    monkeypatch.setattr(loop, "GracefulStop", Stop)
    task = StopAfter(n, stops)
    with pytest.raises(Stopped, match="saved"):
        run(tmp_path, task)
    again = Sums()
    assert numbers(run(tmp_path, again)) == whole[0]
    twice = [call for call in again.calls if call in task.calls and call[0] in ("guess", "measure")]
    assert not twice
    learned = [call[1] for call in task.calls + again.calls if call[0] == "learn"]
    assert sorted(learned) == sorted([0, 1, 2] * STEPS)


def damage(folder, flip=True):
    """Flip a bit in the largest array file below a folder."""
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def test_a_damaged_generation_is_computed_again_and_those_after_it_stay(tmp_path, whole):
    run(tmp_path, Sums())
    file = damage(tmp_path / "checkpoints" / "e0" / "1")
    again = Sums()
    with pytest.warns(UserWarning, match=file.name):
        assert numbers(run(tmp_path, again)) == whole[0]
    assert {call[1] for call in again.calls} == {1}


def test_a_damaged_first_generator_too(tmp_path, whole):
    run(tmp_path, Sums())
    damage(tmp_path / "checkpoints" / "first" / "0")
    again = Sums()
    with pytest.warns(UserWarning, match="does not count"):
        assert numbers(run(tmp_path, again)) == whole[0]
    assert {call[0] for call in again.calls} == {"begin", "learn"}


def test_a_damaged_training_state_gives_way_to_the_one_before(tmp_path, whole):
    with pytest.raises(Killed):
        run(tmp_path, Sums(die=5))  # in the last of 5 steps
    saved = sorted(int(path.name) for path in (tmp_path / "checkpoints/first/learning").iterdir())
    assert saved == [2, 4]
    damage(tmp_path / "checkpoints/first/learning/4")
    again = Sums()
    with pytest.warns(UserWarning, match="learning/4"):
        assert numbers(run(tmp_path, again)) == whole[0]
    assert again.calls.count(("learn", 0)) == 3


def test_a_damaged_batch_of_guesses_is_made_again(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(loop, "GUESSES_EVERY", 0.0)
    with pytest.raises(Killed):
        run(tmp_path, Sums(die=8 + PARTS))  # once it has selected
    damage(tmp_path / "checkpoints/e0/guesses/2")
    again = Sums()
    with pytest.warns(UserWarning, match="guesses/2"):
        assert numbers(run(tmp_path, again)) == whole[0]
    assert [call for call in again.calls if call[:2] == ("guess", 1)] == [("guess", 1, 1)]


def test_what_came_of_another_generator_does_not_count(tmp_path, whole):
    """Generations, guesses and training states of a first generator that is no more."""
    with pytest.raises(Killed):
        run(tmp_path, Sums(die=len(whole[1]) - 2))
    first = tmp_path / "checkpoints" / "first"
    (tmp_path / "other").mkdir()

    class Other(Sums):
        def batches(self, t, data, first):
            return (batch + 1 for batch in super().batches(t, data, first))

    run(tmp_path / "other", Other(generations=0))
    for path in first.iterdir():
        path.rename(tmp_path / f"old-{path.name}")
    (tmp_path / "other/checkpoints/first/0").rename(first / "0")
    again, alone = Sums(), Sums()
    with pytest.warns(UserWarning, match="comes of another generator"):
        found = numbers(run(tmp_path, again))
    assert found != whole[0]
    assert {call[1] for call in again.calls} == {0, 1, 2}
    # The same as if nothing had been there.
    fresh = tmp_path / "fresh"
    (fresh / "checkpoints" / "first").mkdir(parents=True)
    (first / "0").rename(fresh / "checkpoints" / "first" / "0")
    assert numbers(run(fresh, alone)) == found


def test_elements_share_the_first_generator(tmp_path):
    one, two = Sums(), Sums(regime="accumulate")
    found = numbers(run(tmp_path, one, two))
    assert ("learn", 0) not in two.calls
    assert found[1] == numbers(run(tmp_path / "alone", Sums(regime="accumulate")))[0]


def test_accumulate_goes_on_with_all_that_was_kept(tmp_path, whole):
    task = Sums(regime="accumulate")
    ((records, _),) = numbers(run(tmp_path, task))
    kept = [round(record["kept"] * PARTS * B) for record in records[1:]]
    assert [record["examples"] for record in records[1:]] == [7 + kept[0], 7 + sum(kept)]
    with pytest.raises(Killed):
        run(tmp_path / "killed", Sums(regime="accumulate", die=len(task.calls) - 3))
    assert numbers(run(tmp_path / "killed", Sums(regime="accumulate")))[0][0] == records


@pytest.mark.parametrize("t", [1, 2])
def test_where_nothing_is_kept_the_model_stays(tmp_path, t):
    task = Sums(generations=3, keep=lambda at, x: (x > 0) & (at != t))
    ((records, _),) = numbers(run(tmp_path, task))
    assert [record["status"] for record in records] == [3 * (at == t) for at in range(4)]
    assert records[t]["w"] == records[t - 1]["w"] and records[t]["examples"] == 0
    assert ("learn", t) not in task.calls
    again = Sums(generations=3, keep=task.keep)
    assert numbers(run(tmp_path, again))[0][0] == records and not again.calls


def test_metrics_jsonl(tmp_path):
    run(tmp_path, Sums())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "step" in line and line["generation"] == 1]
    assert steps == [2, 4, 5]
    assert [line["generation"] for line in lines if "w" in line] == [0, 1, 2]
    assert list((tmp_path / "tb").rglob("events*"))


@pytest.mark.parametrize("where", ["guess", "begin", "measure"])
def test_short_of_memory(tmp_path, where, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    task = Sums()
    monkeypatch.setattr(task, where, fail)
    phase = {"guess": "generating", "begin": "learning", "measure": "measuring"}[where]
    with pytest.raises(loop.OutOfMemory, match=f"memory does not suffice for {phase}; lower"):
        run(tmp_path, task)


def test_another_error_is_not_hidden(tmp_path, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    task = Sums()
    monkeypatch.setattr(task, "guess", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        run(tmp_path, task)
