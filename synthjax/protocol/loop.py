"""The host loop over generations: generate, verify, select, pool, learn, measure, save.

A task supplies the steps (`Task`); the loop owns their order, checkpoints, resumption, progress and
a clean stop. In a run's folder `checkpoints/` each of these is a series of Orbax steps:

    first…/0            the first generator, which elements of a sweep may share
    ELEMENT/t           generation t: training state, selected set, record; of t = 0 the record
    …/guesses           the generation under way: guesses, by how many batches are done
    …/learning          and its training state, by how many steps are done

What came of a generator carries that generator's digest and counts only with it: a guess, a
training state or a generation of another one is computed again. Random numbers come from the seed
and from what they are for (`protocol.keys`), a batch from its number: nothing else could get lost.

Where several processes share a run, each goes through this loop, and all take the same turns.
"""

import contextlib
import hashlib
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from synthjax import gathered
from synthjax.io import processes, storage
from synthjax.io.checkpoint import Checkpoints
from synthjax.io.learning_log import LearningLog
from synthjax.io.log import Metrics, Progress
from synthjax.io.stop import GracefulStop, Stopped
from synthjax.io.storage import Place
from synthjax.io.watchdog import Watchdog
from synthjax.protocol.training_set import Group, Rows, Source, TrainingSet, at_once, groups

Params = Any  # a pytree of device arrays
State = Any  # what training goes on from, another
Arrays = dict[str, np.ndarray]
Record = dict[str, np.ndarray]
GUESSES_EVERY = 60.0  # seconds of generating between two saves
LONGEST = 256  # numbers of a record's array that a line of metrics.jsonl repeats
NOTHING_KEPT = 3  # the status of a generation that had nothing to train on


class Task(Protocol):
    """The steps of one element of a sweep; t is a generation, 0 the first generator.

    Index t belongs to model t and to what trained it: generation t's guesses are model t − 1's.
    """

    generations: int

    def parts(self, t: int) -> int:
        """In how many batches the guesses of generation t are made."""

    def guess(self, t: int, params: Params, part: int) -> Arrays:
        """Generate and verify a batch: arrays with a leading axis, one name for each."""

    def select(self, t: int, guesses: Arrays) -> tuple[Arrays, Record]:
        """What is kept of all guesses, with a leading axis, and what was measured of them."""

    def kept(self, t: int, selected: Arrays) -> Source:
        """The selected guesses of generation t as training examples."""

    def pool(self, t: int, kept: Source | None, past: Sequence[Source]) -> TrainingSet:
        """What model t is trained on, for t = 0 real examples.

        `kept` is this generation's, `past` that of generations 1 to t − 1; None or left out where
        nothing was.
        """

    def steps(self, t: int) -> int:
        """How many steps model t is trained."""

    def begin(self, t: int, params: Params | None) -> State:
        """The state from which model t is trained, given model t − 1, which stays as it is."""

    def batches(self, t: int, data: TrainingSet, first: int) -> Iterator[Rows]:
        """Training batches from number `first` on, on the host."""

    def learn(
        self, t: int, state: State, groups: Iterator[Group]
    ) -> Iterator[tuple[State, Sequence[Any]]]:
        """After each group of batches the state, and its steps' metrics one group later.

        As `nn.train.steps`: once more at the end.
        """

    def abstract(self, t: int) -> State:
        """Shapes, dtypes and shardings of a state."""

    def params(self, state: State) -> Params:
        """The model that guesses and is measured."""

    def measure(self, t: int, params: Params, watchdog: Watchdog) -> Record:
        """How good model t is; with a beat for each batch, and a phase where others begin."""

    def words(self, record: Record) -> str:
        """A record in a line."""

    def lower(self, phase: str) -> str:
        """Which fields to change where memory is short while learning, generating or measuring."""


class Element(NamedTuple):
    """A point of a sweep: its name, its task, and the name of its first generator."""

    name: str
    task: Task
    first: str


class Settings(NamedTuple):
    """Training steps between two checkpoints, and between two lines of metrics."""

    save_steps: int
    log_steps: int


class OutOfMemory(RuntimeError):
    """Memory does not suffice; one line, which says what to lower."""


def run(
    elements: Sequence[Element], folder: Place, settings: Settings
) -> Iterator[tuple[Element, list[Record], Params, Params]]:
    """Each element, its records of generations 0 to T, and its first and last model.

    Goes on where an earlier run in the folder ended. Raises Stopped after a SIGTERM, once what is
    under way is saved; CheckpointError, WorkdirError, OutOfMemory.
    """
    with (
        GracefulStop() as stop,
        Metrics(folder / "metrics.jsonl") as metrics,
        Watchdog() as watchdog,
    ):
        for i, element in enumerate(elements):
            under_way = _Element(element, folder, settings, stop, metrics, watchdog)
            try:
                records, *models = under_way.run()
                watchdog.between(2 * models)  # which the caller gathers and writes
                yield element, records, *models
            except Stopped as stopped:
                done = f"{i} of {len(elements)} elements are done, " if len(elements) > 1 else ""
                raise Stopped(f"{done}{stopped}; all of it is saved") from None


def digest(params: Params) -> str:
    """SHA-256 of a model's every number and name."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        found.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        found.update(np.ascontiguousarray(gathered(leaf)).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


class _Element:
    """An element under way."""

    def __init__(self, element: Element, folder: Place, settings, stop, metrics, watchdog):
        self.name, self.task, self.first = element
        self.folder, self.settings = folder, settings
        self.stop, self.metrics, self.watchdog = stop, metrics, watchdog

    def run(self) -> tuple[list[Record], Params, Params]:
        """Records of all generations, and the first and last model."""
        first = params = self._first()
        records, kept = [], []
        with Checkpoints(self._place(self.name)) as checkpoints:
            all_of_it = [self.task.abstract(t + 1) for t in range(self.task.generations)]
            self.watchdog.phase(all_of_it)
            whole = checkpoints.steps()
            for t in range(self.task.generations + 1):
                self._meet()
                self.watchdog.between([params, self.task.abstract(t)])
                of = digest(params)
                saved = self._saved(checkpoints, t, of) if t in whole else None
                if saved is None:
                    saved = self._generation(checkpoints, t, params, of, kept)
                if t > 0:
                    self.watchdog.phase()
                    params = self.task.params(saved.pop("state"))  # the optimizer's part may go
                    if "selected" in saved:
                        kept.append(self.task.kept(t, saved["selected"]))
                records.append(saved["record"])
        return records, first, params

    def _first(self) -> Params:
        """The first generator, which another element may have trained."""
        with Checkpoints(self._place(self.first)) as checkpoints:
            self.watchdog.between(2 * [self.task.abstract(0)])
            saved = self._saved(checkpoints, 0, "") if checkpoints.steps() else None
            if saved is None:
                self.watchdog.phase()
                data = self.task.pool(0, None, ())
                saved = {"state": self._learn(self.first, 0, "", data, None), "generator": ""}
                self._seal(checkpoints, self.first, 0, saved)
        self.watchdog.phase()
        return self.task.params(saved["state"])

    def _generation(self, checkpoints: Checkpoints, t: int, params, of: str, kept) -> dict:
        """Compute generation t from model t − 1, with the digest `of`, and save it."""
        task, saved = self.task, {"generator": of}
        if t == 0:
            record = {"status": np.asarray(0)}
        else:
            guesses = self._guesses(t, params, of)
            self.watchdog.between(guesses)
            selected, record = task.select(t, guesses)
            self.watchdog.phase()
            source = None
            if len(next(iter(selected.values()))):
                source, saved["selected"] = task.kept(t, selected), selected
            data = task.pool(t, source, kept)
            record["examples"] = np.asarray(len(data))
            if len(data):
                saved["state"] = self._learn(self.name, t, of, data, params)
            else:  # model t − 1 stays
                saved["state"] = self._before(checkpoints, t)
            record["status"] = np.asarray(0 if len(data) else NOTHING_KEPT)
            self.watchdog.phase()
            params = task.params(saved["state"])
        self._halt(f"{self.name}: generation {t} is trained")
        with self._phase("measuring", t):
            self.watchdog.phase()
            saved["record"] = record | task.measure(t, params, self.watchdog)
            self.watchdog.between(record)
        record = saved["record"]
        line = {name: value.tolist() for name, value in record.items() if value.size <= LONGEST}
        self.metrics.write(element=self.name, generation=t, **line)  # rather twice than never
        self._seal(checkpoints, self.name, t, saved)
        if processes.first():
            print(f"{self.name}, generation {t}: {task.words(saved['record'])}", flush=True)
        if t < task.generations:
            self._halt(f"{self.name}: generation {t} of {task.generations} is done")
        return saved

    def _guesses(self, t: int, params: Params, of: str) -> Arrays:
        """All guesses of generation t, those that an earlier run saved among them."""
        count, tag = self.task.parts(t), f"{t} {of}"
        found: dict[int, Arrays] = {}  # the arrays of batches from `key` on
        todo = set(range(count))
        with (
            Checkpoints(self._place(self.name, "guesses")) as checkpoints,
            self._phase("generating", t),
        ):
            self.watchdog.phase()
            for step in checkpoints.steps():
                self.watchdog.phase()
                saved = checkpoints.restore(step)
                if saved.pop("generator") != tag:
                    checkpoints.delete(step)
                    continue
                first = int(saved.pop("first"))
                found[first] = saved
                todo -= set(range(first, step))
            unit = f"batches of guesses ({self.name}, generation {t})"
            fresh: list[Arrays] = []
            self.watchdog.phase()
            with Progress(unit, count, count - len(todo)) as progress:
                began = time.monotonic()
                for part in sorted(todo):
                    fresh.append(self.task.guess(t, params, part))
                    progress.advance(1)
                    self.watchdog.beat()
                    last, stop = part + 1 not in todo, self.stop.asked()
                    late = processes.agreed(
                        lambda began=began: time.monotonic() - began > GUESSES_EVERY
                    )
                    if last or stop or late:
                        first, began = part + 1 - len(fresh), time.monotonic()
                        found[first], fresh = _joined(fresh), []
                        extra = {"first": np.asarray(first), "generator": tag}
                        self.watchdog.saving(found[first])
                        checkpoints.save(part + 1, {**found[first], **extra})
                    if stop and part + 1 < count:
                        text = f"{progress.done} of {count} batches of guesses are made"
                        self._halt(f"{self.name}, generation {t}: {text}", checkpoints)
            self.watchdog.between(found)
        return _joined([found[first] for first in sorted(found)])

    def _learn(self, name: str, t: int, of: str, data: TrainingSet, params) -> State:
        """Train model t, from where an earlier run left it."""
        task, total, tag = self.task, self.task.steps(t), f"{t} {of}"
        label = name if t == 0 else f"{name}, generation {t}"
        with (
            Checkpoints(self._place(name, "learning")) as checkpoints,
            self._phase("learning", t),
        ):
            self._meet()
            self.watchdog.between(2 * [self.task.abstract(t)])
            held, state = self._resumed(checkpoints, t, tag)
            self.watchdog.phase()
            if state is None:
                state = task.begin(t, params)
            done = held[-1] if held else 0
            log = LearningLog(
                self.metrics,
                self.watchdog,
                {"element": name, "generation": t},
                every=self.settings.log_steps,
                total=total,
                board=self.folder / "tb" / name,
                before=sum(map(task.steps, range(t))),  # steps of earlier generations
                step=done,
            )
            step, stop = done, False  # how many are begun, and whether they are the last

            def sizes():
                nonlocal step
                while step < total and not stop:
                    ends = (every - step % every for every in (at_once(), self.settings.save_steps))
                    size = min(total - step, *ends)
                    step += size
                    yield size

            with log, Progress(f"training steps ({label})", total, done) as progress:
                some = groups(task.batches(t, data, done), sizes())
                for reached, metrics in task.learn(t, state, some):
                    state = reached
                    log.take(metrics)
                    if metrics:
                        progress.advance(len(metrics))
                    if log.step == step:  # all that were begun are done
                        break
                    stop = self.stop.asked()
                    if step % self.settings.save_steps == 0 or step == total or stop:
                        jax.block_until_ready(state)  # which is no part of saving
                        self.watchdog.saving(state)
                        while len(held) > 1:  # the one before stays until this one is sealed
                            checkpoints.delete(held.pop(0))
                        checkpoints.save(step, {"state": state, "generator": tag})
                        held.append(step)
            if step < total:
                self._halt(f"{label}: {step} of {total} training steps done", checkpoints)
            self.watchdog.between(state)
        return state

    def _resumed(
        self, checkpoints: Checkpoints, t: int, tag: str
    ) -> tuple[list[int], State | None]:
        """After how many steps of this generation's training it was saved, and the newest state."""
        held = checkpoints.steps()
        while held:
            target = {"state": self.task.abstract(t), "generator": ""}
            saved = checkpoints.restore(held[-1], target)
            if saved["generator"] == tag:
                return held, saved["state"]
            checkpoints.delete(held.pop())
        return held, None

    def _before(self, checkpoints: Checkpoints, t: int) -> State:
        """The state of model t − 1, from its checkpoint."""
        if t > 1:
            return self._restored(checkpoints, t - 1)["state"]
        with Checkpoints(self._place(self.first)) as first:
            return self._restored(first, 0)["state"]

    def _saved(self, checkpoints: Checkpoints, t: int, of: str) -> dict | None:
        """Generation t, if it came of the generator with that digest."""
        saved = self._restored(checkpoints, t)
        if saved["generator"] == of:
            return saved
        warnings.warn(
            f"{self._place(self.name)}/{t}: comes of another generator, and is computed again",
            stacklevel=2,
        )
        checkpoints.delete(t)
        return None

    def _restored(self, checkpoints: Checkpoints, t: int) -> dict:
        self.watchdog.phase(self.task.abstract(t))
        target = checkpoints.shapes(t)
        self.watchdog.between(target)
        if "state" in target:
            target["state"] = self.task.abstract(t)
        return checkpoints.restore(t, target)

    def _seal(self, checkpoints: Checkpoints, name: str, t: int, saved: dict) -> None:
        """Save a generation, and only then forget what led to it."""
        self.watchdog.between(saved)
        checkpoints.save(t, saved)
        checkpoints.wait()

        def forget():
            for under_way in ("guesses", "learning"):
                with contextlib.suppress(OSError):
                    storage.remove(self._place(name, under_way))

        processes.agreed(forget)

    def _meet(self) -> None:
        """Wait for the others, which may make tokens more slowly: what comes has less time."""
        processes.agreed(lambda: None)

    def _place(self, *names: str) -> Place:
        return self.folder.joinpath("checkpoints", *names)

    def _halt(self, done: str, checkpoints: Checkpoints | None = None) -> None:
        """Raise Stopped if that was asked for, once the save under way is sealed."""
        if self.stop.requested:
            if checkpoints is not None:
                checkpoints.wait()
            raise Stopped(done)

    @contextlib.contextmanager
    def _phase(self, phase: str, t: int):
        try:
            yield
        except BaseException as error:
            self.watchdog.phase()  # what is under way may still be saved
            if not isinstance(error, jax.errors.JaxRuntimeError | MemoryError):
                raise
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                raise OutOfMemory(
                    f"{self.name}, generation {t}: memory does not suffice for {phase}; "
                    f"{self.task.lower(phase)}"
                ) from None
            raise


def _joined(parts: list[Arrays]) -> Arrays:
    """Along the leading axis."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
