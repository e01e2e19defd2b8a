"""What a summarization run is: every field, its default, unit and range."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from synthjax.nn.llama import Architecture
from synthjax.nn.lora import Lora
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
from synthjax.summarize.rouge import METRICS
from synthjax.summarize.verify import VERIFIERS, Verifier

OWN = ("vocabulary", "width", "layers", "heads", "kv_heads", "feed_forward")
INITIALS = {
    "scratch": Kind(None, OWN, "a Llama of our own, which knows nothing, and its own tokenizer"),
    "pretrained": Kind(None, ("model",), "the Hugging Face directory model"),
}
STARTS = {
    "base": Kind(None, (), "each generation learns from what the first one began with"),
    "generator": Kind(None, (), "each generation goes on learning from the one before"),
}
GENERATORS = {
    "greedy": Kind(None, (), "the most probable token each time; one guess"),
    "beam": Kind(None, ("k",), "the k guesses that beam search finds"),
    "sample": Kind(None, ("k", "temperature", "top_p"), "k guesses at random"),
}
SELECTIONS = {
    "top": Kind(select.prune, ("rate",), "of all guesses the fraction rate with the best scores"),
    "best_of_k": Kind(select.best_of_k, ("k",), "of the k guesses for each article the best"),
    "threshold": Kind(select.prune, ("threshold",), "all that score above threshold"),
}
PRECISIONS = {
    "float32": Kind(None, (), "everything in float32"),
    "bfloat16": Kind(None, (), "compute in bfloat16; parameters and optimizer stay float32"),
}
FULL, ADAPTERS = "full", "lora"
LEARNS = {
    FULL: Kind(None, (), "all parameters"),
    ADAPTERS: Kind(None, ("rank", "alpha"), "low-rank adapters, merged before the model is used"),
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """One summarization run or sweep, after arXiv 2406.07515, section 6.2.

    The order of the fields is the order of the axes in results. `verifier` takes a function or
    class of your own as well, which is `register`ed under its name. Raises SpecError, naming
    `config.<field>`, on construction.
    """

    # The texts
    data: str = config_field(
        "news",
        "news, which a package brings, or what launch.prepare_data wrote, or a JSON-lines file",
        axis=False,
    )
    block: int = config_field(256, "tokens of an article with its summary", low=16, high=2**20)
    summary_tokens: int = config_field(
        48, "tokens of a guessed summary at most, with the end", low=2, high=2**16
    )
    pack: bool = config_field(False, "whether texts share a row of block tokens while learning")
    # The model
    initial: str = config_field("scratch", "what the first generator is made of", kinds=INITIALS)
    model: str = config_field("", "Hugging Face directory")
    vocabulary: int = config_field(4096, "symbols of the tokenizer", low=260, high=2**20)
    width: int = config_field(128, "width", low=2, high=2**16)
    layers: int = config_field(4, "layers", low=1, high=1000)
    heads: int = config_field(4, "attention heads, a divisor of width", low=1, high=1024)
    kv_heads: int = config_field(2, "heads of keys and values, a divisor of heads", low=1)
    feed_forward: int = config_field(384, "width of the feed-forward part", low=1, high=2**20)
    precision: str = config_field("float32", "what the model computes in", kinds=PRECISIONS)
    remat: bool = config_field(False, "compute layers twice while learning, to save memory")
    # Where it lies
    mesh: Mapping[str, int] = counts_field(LEFT, MESH)
    # How it is trained
    n_real: int = config_field(500, "real pairs for the first generator", low=1, high=10**9)
    steps: int = config_field(1000, "training steps of the first generator", low=1, high=10**9)
    batch: int = config_field(16, "rows of a training step", low=1, high=2**20)
    learning_rate: float = config_field(
        1e-3, "after the warm-up, then as a cosine", high=10, low_open=True
    )
    end: float = config_field(0.1, "last learning rate, as a fraction; 1: constant", high=1)
    warmup: int = config_field(50, "training steps of growing learning rate", high=10**9)
    weight_decay: float = config_field(0.01, "of AdamW, on matrices; 0 is Adam", high=10)
    clip: float = config_field(
        1.0, "norm to which the gradient is clipped", high=1e9, low_open=True
    )
    b2: float = config_field(0.98, "Adam's decay of squared gradients", high=0.999999)
    accumulate: int = config_field(
        1, "parts of a batch computed one after another, to save memory", low=1, high=2**20
    )
    article_loss: float = config_field(
        0.0, "weight of the loss of an article's tokens; a summary's is 1", high=1
    )
    learns: str = config_field(FULL, "what training changes", kinds=LEARNS)
    rank: int = config_field(8, "rank of the adapters", low=1, high=2**12)
    alpha: float = config_field(16.0, "scale of the adapters, times rank", high=1e6, low_open=True)
    seed: int = config_field(0, "base of every random number", high=2**32 - 1)
    # A generation: what follows is nothing to the first generator
    start: str = config_field("base", "from where later generations learn", kinds=STARTS)
    generation_steps: int = config_field(
        1000, "training steps of each later generation", low=1, high=10**9
    )
    generation_learning_rate: float = config_field(
        1e-3, "learning_rate of later generations", high=10, low_open=True
    )
    generation_end: float = config_field(0.1, "end of later generations", high=1)
    generations: int = config_field(
        1, "T, how often a model is trained on guesses", high=10**6, axis=False
    )
    n: int = config_field(1000, "articles of a generation", low=1, high=10**9)
    generator: str = config_field("greedy", "how guesses are made", kinds=GENERATORS)
    k: int = config_field(1, "guesses for each article", low=1, high=1024)
    temperature: float = config_field(1.0, "of sampling", high=100, low_open=True)
    top_p: float = config_field(
        1.0, "sample of the fewest tokens that make up this probability", high=1, low_open=True
    )
    verifier: str = config_field("random", "who scores guesses", kinds=VERIFIERS, own=True)
    verifier_metric: str = config_field(
        "rouge1", "ROUGE of oracle and lead", kinds={name: Kind(None, (), name) for name in METRICS}
    )
    verifier_model: str = config_field("", "Hugging Face directory of the other model")
    selection: str = config_field("top", "how scores become a selection", kinds=SELECTIONS)
    rate: float = config_field(0.125, "fraction of the guesses that is kept", high=1, low_open=True)
    threshold: float = config_field(0.0, "score above which a guess is kept", low=-1e9, high=1e9)
    regime: str = config_field("replace", "what a training set is made of", kinds=REGIMES)
    real_fraction: float = config_field(
        0.5, "fraction of a generation's n examples that mix draws real", high=1
    )
    # How it is measured
    right: float = config_field(
        0.0, "ROUGE above which a guess is right, for p, φ, ψ; 0: the guesses' median", high=1
    )
    n_test: int = config_field(1000, "test pairs at most", low=2, high=10**7, axis=False)
    n_samples: int = config_field(
        20, "test summaries of each generation that samples/ shows", low=1, high=10**6, axis=False
    )
    decode_batch: int = config_field(
        64, "articles summarized at one time, with all their guesses", low=1, high=2**20, axis=False
    )
    save_steps: int = config_field(
        500, "training steps between two checkpoints", low=1, high=10**9, axis=False
    )
    log_steps: int = config_field(
        50, "training steps between two lines of metrics.jsonl", low=1, high=10**9, axis=False
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
    def lora(self) -> Lora | None:
        """The adapters, if those learn."""
        return Lora(self.rank, self.alpha) if self.learns == ADAPTERS else None

    def architecture(self, vocabulary: int) -> Architecture:
        """Our own model's, for a tokenizer of so many symbols."""
        return Architecture(
            vocabulary=vocabulary,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head=self.width // self.heads,
            feed_forward=self.feed_forward,
            context=self.block,
        )

    def schedule(self, t: int) -> Schedule:
        """How model t is trained."""
        names = ("warmup", "weight_decay", "clip", "b2", "accumulate")
        rest = {name: getattr(self, name) for name in names}
        if t == 0:
            return Schedule(self.steps, self.learning_rate, end=self.end, **rest)
        return Schedule(
            self.generation_steps, self.generation_learning_rate, end=self.generation_end, **rest
        )


def register(part: Verifier, name: str = "", reads: Iterable[str] = ()) -> str:
    """Give a verifier of your own a name that specs and flags know, and return the name.

    `part` is a `Verifier`: a function, or an instance of a frozen dataclass. `reads` names the
    fields of `Numbers` that it needs (default: its attribute `reads`, if it has one). Raises
    SpecError as `mixture.register` does.
    """
    fields = fields_of(Spec)
    return protocol.register(fields["verifier"], part, name, reads, fields)


def reads(kinds: Mapping[str, str]) -> set[str]:
    """The fields that one combination of kinds (a field's name -> the kind chosen) reads."""
    return protocol_reads(Spec, kinds)


def _check_combinations(spec: Spec) -> None:
    """Refuse what cannot run, before anything is computed."""

    def refuse(name, rule):
        swept = name in spec.sweep
        path, value = (f"sweep.{name}", spec.sweep[name]) if swept else (name, getattr(spec, name))
        raise SpecError(path, value, rule)

    for point in combinations(spec, ["width", "heads", "kv_heads", "initial"]):
        if point["initial"] != "scratch":
            continue
        if point["width"] % point["heads"]:
            refuse("heads", f"must divide width, which is {point['width']}")
        if point["width"] // point["heads"] % 2:
            refuse("heads", f"must leave heads of an even width; width is {point['width']}")
        if point["heads"] % point["kv_heads"]:
            refuse("kv_heads", f"must divide heads, which is {point['heads']}")
    for point in combinations(spec, ["initial", "model", "verifier", "verifier_model"]):
        if point["initial"] == "pretrained" and not point["model"]:
            refuse("model", "must be a Hugging Face directory where initial=pretrained")
        if "verifier_model" in VERIFIERS[point["verifier"]].reads and not point["verifier_model"]:
            refuse("verifier_model", f"must be a directory where verifier={point['verifier']}")
    for point in combinations(spec, ["initial", "learns"]):
        if point["initial"] == "scratch" and point["learns"] == ADAPTERS:
            refuse("learns", "must be full where initial=scratch: nothing is there to adapt")
    for point in combinations(spec, ["learns", "start"]):
        if point["learns"] == ADAPTERS and point["start"] == "generator":
            refuse("start", f"must be base where learns={ADAPTERS}: adapters begin from the base")
    for point in combinations(spec, ["block", "summary_tokens"]):
        if 2 * point["summary_tokens"] > point["block"]:
            rule = f"must leave half of a block to the article; block is {point['block']}"
            refuse("summary_tokens", rule)
    for point in combinations(spec, ["batch", "accumulate"]):
        if point["batch"] % point["accumulate"]:
            refuse("accumulate", f"must divide batch, which is {point['batch']}")
    for point in combinations(spec, ["generator", "k", "selection"]):
        if point["selection"] == "best_of_k" and point["generator"] == "greedy":
            refuse("selection", "has one guess to choose from where generator=greedy")
    for point in combinations(spec, ["n", "regime", "real_fraction"]):
        real = REGIMES[point["regime"]].call.real
        if real and round(point["n"] * point["real_fraction"]) == point["n"]:
            refuse("real_fraction", f"must leave something to guess; n is {point['n']}")
    for point in combinations(spec, ["n", "k"]):
        if point["n"] * point["k"] >= 2**31:
            refuse("k", f"n k must stay below 2^31; n is {point['n']}")
