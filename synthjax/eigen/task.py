"""The eigenvalue task: what each step of a generation does (`protocol.loop.Task`)."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Key

from synthjax import host
from synthjax.eigen import model
from synthjax.eigen.data import SPECTRA, Examples, Matrices, source_ids, target_ids
from synthjax.eigen.measure import DECODINGS, TOLERANCES, errors, right
from synthjax.eigen.model import Language
from synthjax.eigen.spec import SELECTIONS, Spec
from synthjax.eigen.tokens import BOS, PAD, Encoding
from synthjax.eigen.verify import VERIFIERS, Guessed, Numbers
from synthjax.nn import seq2seq, sharding, train
from synthjax.nn.bind import Params
from synthjax.nn.decode import Guesses
from synthjax.nn.seq2seq import Batch
from synthjax.nn.train import State
from synthjax.protocol import training_set
from synthjax.protocol.keys import Stream
from synthjax.protocol.keys import key as key_of
from synthjax.protocol.loop import Arrays, Record, Watchdog
from synthjax.protocol.proxy import rates
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.select import checked
from synthjax.protocol.training_set import Group, Source, TrainingSet

Host = np.ndarray


@dataclasses.dataclass(frozen=True)
class Real:
    """Truly labelled matrices, numbers 0 to n − 1 of a key."""

    matrices: Matrices
    encoding: Encoding
    key: Key[Host, ""]
    n: int

    def __len__(self) -> int:
        return self.n

    def rows(self, indices: Int[Host, " b"]) -> Batch:
        """The examples of those numbers."""
        found = self.matrices.draw(self.key, indices)
        target = target_ids(found.values, found.sizes, self.encoding)
        return Batch(source_ids(found, self.encoding), target)


@dataclasses.dataclass(frozen=True)
class Kept:
    """Selected guesses, `target`, for matrices of a key whose numbers are `index`."""

    matrices: Matrices
    encoding: Encoding
    key: Key[Host, ""]
    index: Int[Host, " m"]
    target: Int[Host, "m t"]

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, indices: Int[Host, " b"]) -> Batch:
        """The examples of those numbers."""
        found = self.matrices.draw(self.key, self.index[indices])
        return Batch(source_ids(found, self.encoding), self.target[indices].astype(np.int32))


class EigenTask:
    """The task of one spec without axes, on a mesh, with the models that it reads by folder."""

    def __init__(self, spec: Spec, mesh: Mesh, models: Mapping[str, tuple[Language, Params]]):
        self.spec, self.mesh, self.models = spec, mesh, models
        self.generations = spec.generations
        self.language = model.language_of(spec)
        self.model, self.encoding = model.build(self.language), model.numbers(self.language)
        # How many examples of a generation are guesses, and how many are fresh and real.
        real = round(spec.n * spec.real_fraction) if REGIMES[spec.regime].call.real else 0
        self.n, self.n_fresh = spec.n - real, real

    # Generate, verify, select

    def parts(self, t: int) -> int:
        """Batches of `decode_batch` matrices."""
        return -(-self.n // self.spec.decode_batch)

    def guess(self, t: int, params: Params, part: int) -> Arrays:
        """k answers for each matrix of a batch, [b, k, …], and the verifier's scores of them."""
        spec = self.spec
        size = min(spec.decode_batch, self.n)  # the last batch is filled up: one shape, one program
        index = part * spec.decode_batch + np.arange(size)
        count = min(size, self.n - part * spec.decode_batch)
        index = np.minimum(index, self.n - 1)
        examples = spec.matrices.draw(self._key(Stream.FEATURES, t), index)
        source = source_ids(examples, self.encoding)
        if spec.generator == "beam":
            found = model.beam(self.language, params, self.mesh, source, spec.k)
        else:
            key = self._key(Stream.GENERATE, t)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
            found = model.sample(
                self.language, params, self.mesh, source, spec.k, keys, spec.temperature, spec.top_p
            )
        guessed = self._guessed(examples, source, found)
        key = jax.random.fold_in(self._key(Stream.VERIFY, t), part)
        numbers = Numbers(spec.phi, spec.psi, spec.verifier_tolerance, spec.residual_tolerance)
        scores = VERIFIERS[spec.verifier].call(key, numbers, guessed)
        arrays = {
            "tokens": found.tokens.astype(np.uint16),
            "log_prob": found.log_prob,
            "score": checked(spec.verifier, scores, np.isfinite(found.log_prob)),
            "error": guessed.error.astype(np.float32),
        }
        return {name: leaf[:count] for name, leaf in arrays.items()}

    def select(self, t: int, guesses: Arrays) -> tuple[Arrays, Record]:
        """The kept guesses as `index` of their matrix and `target`; kept, p, φ, ψ, p* by τ."""
        spec, scores = self.spec, guesses["score"]
        n, k = scores.shape
        there = np.isfinite(guesses["log_prob"])  # fewer sequences than beams
        by_matrix = spec.selection == "best_of_k"
        shape = (k, n) if by_matrix else (1, n * k)
        flat = [x.T if by_matrix else x.reshape(shape) for x in (scores, there)]
        ranks = "keep" in VERIFIERS[spec.verifier].reads or spec.selection == "random"
        with jax.threefry_partitionable(False), jax.default_device(host()):
            key = self._key(Stream.SELECT, t)
            keep = np.float32(spec.keep) if ranks else None
            weights = np.asarray(SELECTIONS[spec.selection].call(key, *flat, keep)) > 0
        kept = weights.T if by_matrix else weights.reshape(n, k)
        matrix, guess = np.nonzero(kept)
        target = guesses["tokens"][matrix, guess]
        target = np.concatenate([np.full((len(target), 1), BOS, np.uint16), target], 1)
        is_right = guesses["error"][..., None] < np.float32(TOLERANCES)
        of, kept = there[..., None], kept[..., None]
        counts = (is_right & of, ~is_right & of, is_right & kept, ~is_right & kept)
        record = rates(*(count.sum((0, 1)) for count in counts))
        record["kept"] = np.asarray(kept.sum() / there.sum())
        return {"index": matrix.astype(np.int32), "target": target}, record

    def _guessed(self, examples: Examples, source: Host, found: Guesses) -> Guessed:
        """What verifiers look at."""
        sizes, d = examples.sizes, self.spec.size_max
        values, formed = model.answers(self.language, found.tokens, sizes, d)
        guessed = Guessed(
            values,
            formed,
            found.log_prob,
            errors(values, formed, examples.values[:, None]).l1,
            sizes,
            np.trace(examples.matrices, axis1=1, axis2=2),
            np.linalg.norm(examples.matrices, axis=(1, 2)),
        )
        if self.spec.verifier == "model":
            language, params = self.models[self.spec.verifier_model]
            source = source_ids(examples, model.numbers(language))
            greedy = model.beam(language, params, self.mesh, source, 1)
            theirs, read = model.answers(language, greedy.tokens, sizes, d)
            error = errors(values, formed & read, theirs).l1
            return guessed._replace(other_error=error)
        if self.spec.verifier == "ranked_model":
            language, params = self.models[self.spec.verifier_model]
            encoding, k = model.numbers(language), values.shape[1]
            source = np.repeat(source_ids(examples, encoding), k, 0)
            target = target_ids(values.reshape(-1, d), np.repeat(sizes, k), encoding)
            theirs = model.log_prob(language, params, self.mesh, source, target).reshape(-1, k)
            return guessed._replace(other_log_prob=np.where(formed, theirs, -np.inf))
        return guessed

    # Pool, learn

    def kept(self, t: int, selected: Arrays) -> Kept:
        """The selected guesses of generation t as training examples."""
        key = self._key(Stream.FEATURES, t)
        return Kept(self.spec.matrices, self.encoding, key, selected["index"], selected["target"])

    def pool(self, t: int, kept: Source | None, past: Sequence[Source]) -> TrainingSet:
        """What model t is trained on, by the regime; for t = 0 the real matrices."""
        spec, first = self.spec, []
        if spec.initial == "real":
            first = [self._real(0, spec.n_real)]
        if t == 0:
            return TrainingSet(tuple(first))
        fresh = self._real(t, self.n_fresh) if self.n_fresh else None
        key = self._key(Stream.SUBSAMPLE, t)
        return training_set.pool(
            REGIMES[spec.regime].call, key, spec.n, kept, [*first, *past], fresh
        )

    def steps(self, t: int) -> int:
        """How many steps model t is trained; none where it is read from a folder."""
        if t == 0:
            return self.spec.steps if self.spec.initial == "real" else 0
        return self.spec.generation_steps

    def begin(self, t: int, params: Params | None) -> State:
        """A model that knows nothing, or the one that there is."""
        if t == 0 and self.spec.initial == "checkpoint":
            params = self.models[self.spec.generator_model][1]
        elif t == 0 or self.spec.start == "scratch":
            params = self.model.init(self._key(Stream.LEARN, t))
        return sharding.begun(self._trainer(t).begin, params, self._places)

    def batches(self, t: int, data: TrainingSet, first: int) -> Iterator[Batch]:
        """This process's rows of training batches from number `first` on."""
        key = jax.random.fold_in(self._key(Stream.LEARN, t), 1)
        size, steps = self.spec.batch, range(first, self.steps(t))
        return training_set.batches(data, key, size, steps, sharding.rows_here(self.mesh, size))

    def learn(
        self, t: int, state: State, groups: Iterator[Group]
    ) -> Iterator[tuple[State, list[train.Metrics]]]:
        """Train; the metrics come a group late."""
        there = (
            Group(sharding.put_batches(self.mesh, group.batches, self.spec.batch), group.count)
            for group in groups
        )
        return train.steps(self._trainer(t), state, there)

    def abstract(self, t: int) -> State:
        """Shapes, dtypes and shardings of a state."""
        shapes = jax.eval_shape(self._trainer(t).begin, self.model.shapes)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            self._places(shapes),
        )

    def _places(self, tree):
        return sharding.places(self.mesh, seq2seq.axes, tree)

    def params(self, state: State) -> Params:
        """The model that guesses: the average, where there is one."""
        return state.params if state.average is None else state.average

    # Measure

    def measure(self, t: int, params: Params, watchdog: Watchdog) -> Record:
        """Accuracies by tolerance and decoding, with intervals, by spectrum; the test loss."""
        spec = self.spec
        examples, greedy = self._decoded(params, spec.matrices, 1, watchdog)
        _, beams = self._decoded(params, spec.matrices, spec.k_test, watchdog)
        best, several = self._errors(examples, greedy), self._errors(examples, beams)
        found = [right(best.l1[:, 0], several.l1, beams.log_prob, tau) for tau in TOLERANCES]
        counts = np.array([[one[name].sum() for name in DECODINGS] for one in found])
        wrong = rates(counts, spec.n_test - counts, 0, 0)
        tau = np.array(TOLERANCES)
        inside = np.arange(spec.size_max) < examples.sizes[:, None]
        record = {
            "accuracy": counts / spec.n_test,
            "accuracy_low": 1 - wrong["p_hat_high"],
            "accuracy_high": 1 - wrong["p_hat_low"],
            "accuracy_largest": (best.largest[:, 0] < tau[:, None]).mean(1),
            "accuracy_each": (best.each[:, 0][inside] < tau[:, None]).mean(1),
            "loss": self._loss(params, examples, watchdog),
        }
        by_spectrum = []
        for spectrum in SPECTRA:
            error = best
            if spectrum != spec.spectrum:
                matrices = dataclasses.replace(spec.matrices, spectrum=spectrum)
                error = self._errors(*self._decoded(params, matrices, 1, watchdog))
            by_spectrum.append((error.l1[:, 0] < tau[:, None]).mean(1))
        return record | {"accuracy_spectrum": np.array(by_spectrum)}

    def words(self, record: Record) -> str:
        """A record in a line."""
        each = zip(TOLERANCES, record["accuracy"][:, 0], strict=True)
        text = ", ".join(f"{accuracy:.3f} at {tau:.1%}" for tau, accuracy in each)
        text = f"greedy accuracy {text}; loss {record['loss']:.3f}"
        if "kept" in record:
            at = int(np.argmin(np.abs(np.array(TOLERANCES) - self.spec.verifier_tolerance)))
            p, p_star = (record[name][at] for name in ("p_hat", "p_star_hat"))
            text += (
                f"; kept {record['kept']:.1%} of the guesses, "
                f"p = {p:.3f} against p* = {p_star:.3f} at {TOLERANCES[at]:.1%}"
            )
        return text

    def lower(self, phase: str) -> str:
        """Which fields to change where memory is short."""
        return {
            "learning": "lower config.batch, or raise config.accumulate",
            "generating": "lower config.decode_batch or config.k",
            "measuring": "lower config.decode_batch or config.k_test",
        }[phase]

    def _decoded(
        self, params: Params, matrices: Matrices, k: int, watchdog: Watchdog
    ) -> tuple[Examples, Guesses]:
        """The test matrices of a law and k answers for each."""
        spec = self.spec
        examples = matrices.draw(self._key(Stream.TEST, 0), np.arange(spec.n_test))
        source = source_ids(examples, self.encoding)
        parts = [
            model.beam(self.language, params, self.mesh, source[rows], k)
            for rows in self._rows(watchdog)
        ]
        joined = [np.concatenate(leaves)[: spec.n_test] for leaves in zip(*parts, strict=True)]
        return examples, Guesses(*joined)

    def _errors(self, examples: Examples, found: Guesses):
        values, formed = model.answers(
            self.language, found.tokens, examples.sizes, self.spec.size_max
        )
        return errors(values, formed, examples.values[:, None])

    def _loss(self, params: Params, examples: Examples, watchdog: Watchdog) -> Float[Host, ""]:
        """Nats for a token of the truth."""
        source = source_ids(examples, self.encoding)
        target = target_ids(examples.values, examples.sizes, self.encoding)
        parts = [
            model.log_prob(self.language, params, self.mesh, source[rows], target[rows])
            for rows in self._rows(watchdog)
        ]
        total = np.concatenate(parts)[: self.spec.n_test].sum(dtype=np.float64)
        return np.asarray(-total / (target[:, 1:] != PAD).sum())

    def _rows(self, watchdog: Watchdog) -> Iterator[Int[Host, " b"]]:
        """The numbers of the test matrices in batches of one shape, the last one repeated."""
        n, size = self.spec.n_test, min(self.spec.decode_batch, self.spec.n_test)
        watchdog.phase()
        for first in range(0, n, size):
            yield np.minimum(first + np.arange(size), n - 1)
            watchdog.beat()
        watchdog.phase()

    def _trainer(self, t: int) -> train.Trainer:
        found = model.trainer(self.language, self.spec.schedule(t))
        return found._replace(several=sharding.on(self.mesh, found.several))

    def _key(self, stream: Stream, t: int) -> Any:
        return key_of(self.spec.seed, stream, 0, t)

    def _real(self, t: int, n: int) -> Real:
        return Real(self.spec.matrices, self.encoding, self._key(Stream.REAL, t), n)
