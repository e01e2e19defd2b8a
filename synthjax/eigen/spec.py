"""What an eigenvalue run is: every field, its default, unit and range."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from synthjax.eigen.data import SPECTRA, Matrices, lengths
from synthjax.eigen.tokens import ENCODINGS, PAD, SIZES, Encoding
from synthjax.eigen.verify import VERIFIERS, Verifier
from synthjax.nn.seq2seq import ACTIVATIONS, Architecture
from synthjax.nn.sharding import LEFT, MESH
from synthjax.nn.train import Schedule
from synthjax.protocol import select
from synthjax.protocol import spec as protocol
from synthjax.protocol.elements import reads as protocol_reads
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.spec import (
    Kind,
    SpecError,
    check_reads,
    check_values,
    combinations,
    config_field,
    counts_field,
    fields_of,
)

INITIALS = {
    "real": Kind(None, ("n_real", "steps"), "trained on n_real truly labelled matrices"),
    "checkpoint": Kind(None, ("generator_model",), "read from the folder generator_model"),
}
STARTS = {
    "scratch": Kind(None, (), "each generation learns from nothing, as in the paper"),
    "generator": Kind(None, (), "each generation goes on learning from the one before"),
}
GENERATORS = {
    "beam": Kind(None, ("k",), "the k answers that beam search finds; k = 1 is greedy"),
    "sample": Kind(None, ("k", "temperature", "top_p"), "k answers at random"),
}
SELECTIONS = {
    "prune": Kind(
        select.prune, (), "keep what the verifier keeps; of one that ranks, the top fraction keep"
    ),
    "best_of_k": Kind(
        select.best_of_k, ("k",), "of the k guesses for each matrix keep the best-scored"
    ),
    "random": Kind(select.random, ("keep",), "keep the fraction keep by chance"),
}
PRECISIONS = {
    "float32": Kind(None, (), "everything in float32"),
    "bfloat16": Kind(None, (), "compute in bfloat16; parameters and optimizer stay float32"),
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """One eigenvalue run or sweep, after arXiv 2406.07515 and Charton (TMLR 2022).

    The order of the fields is the order of the axes in results. `verifier` takes a function or
    class of your own as well, which is `register`ed under its name. Raises SpecError, naming
    `config.<field>`, on construction.
    """

    # The matrices
    size_min: int = config_field(5, "smallest matrix, rows", low=2, high=SIZES)
    size_max: int = config_field(
        5, "largest matrix, rows; sizes between are mixed", low=2, high=SIZES
    )
    bound: float = config_field(10.0, "A: entries lie in [-A, A]", low=1e-3, high=1e6)
    spectrum: str = config_field(
        "semicircle",
        "law of the eigenvalues",
        kinds={
            name: Kind(None, (), call.__doc__.splitlines()[0]) for name, call in SPECTRA.items()
        },
    )
    encoding: str = config_field(
        "P1000",
        "how numbers are written",
        kinds={
            name: Kind(None, (), kind.__doc__.splitlines()[0]) for name, kind in ENCODINGS.items()
        },
    )
    # The transformer
    width: int = config_field(256, "width", low=1, high=2**14)
    heads: int = config_field(8, "attention heads, a divisor of width", low=1, high=1024)
    encoder_layers: int = config_field(4, "encoder layers", low=1, high=100)
    decoder_layers: int = config_field(1, "decoder layers", low=1, high=100)
    feed_forward: int = config_field(4, "width of the feed-forward part, in widths", low=1, high=64)
    activation: str = config_field(
        "gelu",
        "of the feed-forward part",
        kinds={name: Kind(None, (), name) for name in ACTIVATIONS},
    )
    pre_norm: bool = config_field(True, "layers normalise before each part, not after")
    tied: bool = config_field(True, "the decoder's output is its embedding")
    precision: str = config_field("float32", "what the model computes in", kinds=PRECISIONS)
    # Where it lies
    mesh: Mapping[str, int] = counts_field(LEFT, MESH)
    # How it is trained
    initial: str = config_field("real", "where the first generator comes from", kinds=INITIALS)
    generator_model: str = config_field("", "folder of the first generator, as models/ holds them")
    n_real: int = config_field(
        200_000, "truly labelled matrices for the first generator", low=1, high=10**8
    )
    steps: int = config_field(10_000, "training steps of the first generator", low=1, high=10**9)
    batch: int = config_field(128, "examples of a training step", low=1, high=2**20)
    learning_rate: float = config_field(
        1e-3, "after the warm-up; falls to a tenth as a cosine", high=10, low_open=True
    )
    warmup: int = config_field(500, "training steps of growing learning rate", high=10**9)
    weight_decay: float = config_field(0.01, "of AdamW, on matrices; 0 is Adam", high=10)
    clip: float = config_field(
        1.0, "norm to which the gradient is clipped", high=1e9, low_open=True
    )
    b2: float = config_field(0.98, "Adam's decay of squared gradients", high=0.999999)
    accumulate: int = config_field(
        1, "parts of a batch computed one after another, to save memory", low=1, high=2**20
    )
    average: float = config_field(
        0.0, "moving average of the parameters: what a step keeps of it; 0 is none", high=0.999999
    )
    seed: int = config_field(0, "base of every random number", high=2**32 - 1)
    # A generation: what follows is nothing to the first generator
    start: str = config_field("scratch", "from where later generations learn", kinds=STARTS)
    generation_steps: int = config_field(
        10_000, "training steps of each later generation", low=1, high=10**9
    )
    generations: int = config_field(
        1, "T, how often a model is trained on guesses", high=10**6, axis=False
    )
    n: int = config_field(200_000, "matrices of a generation", low=1, high=10**8)
    generator: str = config_field("beam", "how guesses are made", kinds=GENERATORS)
    k: int = config_field(1, "guesses for each matrix", low=1, high=1024)
    temperature: float = config_field(1.0, "of sampling", high=100, low_open=True)
    top_p: float = config_field(
        1.0, "sample of the fewest tokens that make up this probability", high=1, low_open=True
    )
    verifier: str = config_field("none", "who decides what to keep", kinds=VERIFIERS, own=True)
    verifier_tolerance: float = config_field(
        0.02, "τ below which a guess is right to oracle, noisy and model", high=1, low_open=True
    )
    phi: float = config_field(1.0, "φ, chance that noisy keeps a right guess", high=1)
    psi: float = config_field(0.5, "ψ, chance that noisy keeps a wrong one: p_noise", high=1)
    residual_tolerance: float = config_field(
        0.02, "how far trace and norm may be off for residual", high=1, low_open=True
    )
    verifier_model: str = config_field("", "folder of the other model, as models/ holds them")
    keep: float = config_field(
        0.5,
        "fraction of the guesses that a ranking verifier or random keeps",
        high=1,
        low_open=True,
    )
    selection: str = config_field("prune", "how verdicts become a selection", kinds=SELECTIONS)
    regime: str = config_field("replace", "what a training set is made of", kinds=REGIMES)
    real_fraction: float = config_field(
        0.5, "fraction of a generation's n examples that mix draws real", high=1
    )
    # How it is measured
    n_test: int = config_field(1000, "test matrices", low=1, high=10**7, axis=False)
    k_test: int = config_field(10, "beams of oracle_of_k and logprob_of_k", low=1, high=1024)
    decode_batch: int = config_field(
        256, "matrices decoded at one time, with all their guesses", low=1, high=2**20, axis=False
    )
    save_steps: int = config_field(
        1000, "training steps between two checkpoints", low=1, high=10**9, axis=False
    )
    log_steps: int = config_field(
        100, "training steps between two lines of metrics.jsonl", low=1, high=10**9, axis=False
    )
    sweep: Mapping[str, tuple[Any, ...]] = config_field(
        {}, "values of a field, which becomes an axis of the results"
    )

    def __post_init__(self):
        """Validate: values, axes, fields that nothing reads, combinations that cannot run."""
        check_values(self)
        check_reads(self, reads)
        _check_combinations(self)

    def check_explicit(self, names: Iterable[str]) -> None:
        """Refuse names that the user set, even to their default, and that nothing reads."""
        check_reads(self, reads, frozenset(names))

    @property
    def matrices(self) -> Matrices:
        """The law of the matrices."""
        return Matrices(tuple(range(self.size_min, self.size_max + 1)), self.bound, self.spectrum)

    @property
    def numbers(self) -> Encoding:
        """The encoding, with the exponents that entries and eigenvalues can have.

        Eigenvalues are below d A, or in spectra with tails below 20 d A; what is smaller than
        A/10⁶ is written as 0.
        """
        high = max(0, math.ceil(math.log10(20 * self.size_max * self.bound)) - 3)
        low = min(0, math.floor(math.log10(self.bound)) - 8)
        return ENCODINGS[self.encoding](-9 if self.encoding == "FP15" else low, high)

    @property
    def architecture(self) -> Architecture:
        """The transformer."""
        encoding = self.numbers
        source, target = lengths(self.size_max, encoding)
        shared = fields_of(Architecture).keys() & fields_of(self).keys()
        own = {name: getattr(self, name) for name in shared}
        return Architecture(len(encoding.symbols), source, target, PAD, **own)

    def schedule(self, t: int) -> Schedule:
        """How model t is trained."""
        steps = self.steps if t == 0 else self.generation_steps
        names = ("learning_rate", "warmup", "weight_decay", "clip", "b2", "accumulate", "average")
        return Schedule(steps, **{name: getattr(self, name) for name in names})


def register(part: Verifier, name: str = "", reads: Iterable[str] = ()) -> str:
    """Give a verifier of your own a name that specs and flags know, and return the name.

    `part` is a `Verifier`: a function, or an instance of a frozen dataclass. `reads` names the
    fields of the spec that it needs (default: its attribute `reads`, if it has one): those of
    `Numbers`, and "keep" where its scores rank. Raises SpecError as `mixture.register` does.
    """
    fields = fields_of(Spec)
    return protocol.register(fields["verifier"], part, name, reads, fields)


def reads(kinds: Mapping[str, str]) -> set[str]:
    """The fields that one combination of kinds (a field's name -> the kind chosen) reads."""
    read = protocol_reads(Spec, kinds)
    if kinds["regime"] in ("accumulate", "subsample") and kinds["initial"] == "real":
        read |= {"n_real"}
    if kinds["selection"] == "best_of_k":
        read -= {"keep"}  # one guess for each matrix is kept
    return read


def _path(spec: Spec, name: str) -> str:
    return f"sweep.{name}" if name in spec.sweep else name


def _refuse(spec: Spec, name: str, rule: str) -> None:
    value = spec.sweep[name] if name in spec.sweep else getattr(spec, name)
    raise SpecError(_path(spec, name), value, rule)


def _check_combinations(spec: Spec) -> None:
    for point in combinations(spec, ["size_min", "size_max"]):
        if point["size_min"] > point["size_max"]:
            _refuse(spec, "size_min", f"must be <= size_max, which is {point['size_max']}")
    for point in combinations(spec, ["width", "heads"]):
        if point["width"] % point["heads"]:
            _refuse(spec, "heads", f"must divide width, which is {point['width']}")
    for point in combinations(spec, ["batch", "accumulate"]):
        if point["batch"] % point["accumulate"]:
            _refuse(spec, "accumulate", f"must divide batch, which is {point['batch']}")
    for point in combinations(spec, ["verifier", "phi", "psi"]):
        if point["verifier"] == "noisy" and point["phi"] == point["psi"] == 0:
            name = "phi" if "phi" in spec.sweep else "psi"
            _refuse(spec, name, "phi = psi = 0 keeps nothing, so there is nothing to train on")
    for name, kind, folder in (
        ("verifier", "model", "verifier_model"),
        ("verifier", "ranked_model", "verifier_model"),
        ("initial", "checkpoint", "generator_model"),
    ):
        for point in combinations(spec, [name, folder]):
            if point[name] == kind and not point[folder]:
                _refuse(spec, folder, f"must name a folder with {name}={kind}")
    for point in combinations(spec, ["selection", "verifier"]):
        if point["selection"] == "random" and point["verifier"] != "none":
            _refuse(
                spec,
                "selection",
                f"asks no verifier, and verifier is {point['verifier']}; take verifier=none",
            )
    for point in combinations(spec, ["n", "regime", "real_fraction"]):
        real = REGIMES[point["regime"]].call.real
        if real and round(point["n"] * point["real_fraction"]) == point["n"]:
            _refuse(spec, "real_fraction", f"must leave something to guess; n is {point['n']}")
    for point in combinations(spec, ["n", "k"]):
        if point["n"] * point["k"] >= 2**31:
            _refuse(spec, "k", f"n k must stay below 2^31; n is {point['n']}")
