"""Hugging Face directories: language models of the Llama family, read and written without PyTorch.

    from synthjax.summarize import hf

    lm = hf.load("SmolLM2-135M")
    lm.generate(["The moon is"], max_new_tokens=20)
    hf.save(lm, "copy")

Llama 2 and 3, SmolLM2, Qwen2 and 2.5, Mistral. Nothing in a directory is executed.
"""

import dataclasses
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from jax.sharding import Mesh
from jaxtyping import Float, Int

from synthjax.io import shards
from synthjax.io.tensors import CONFIG, CONFIG_BYTES, ModelError, check_plain, json_object, nested
from synthjax.nn import llama, sharding
from synthjax.nn.bind import Params
from synthjax.nn.llama import Architecture
from synthjax.nn.rotary import RopeScaling
from synthjax.summarize import model
from synthjax.summarize.model import Language

Host = np.ndarray
TOKENIZER_BYTES = 2**28
# Hugging Face's names of the families, and what their configs mean by a name that is not there:
# something else than by null.
FAMILIES = {
    "llama": ("LlamaForCausalLM", {"rms_norm_eps": 1e-6}),
    "mistral": (
        "MistralForCausalLM",
        {"rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "qwen2": ("Qwen2ForCausalLM", {"rms_norm_eps": 1e-6, "num_key_value_heads": 32}),
}
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
_SYMBOLS = ("tokenizer.json", "tokenizer.model", "vocab.json")  # without one there is none
_READ = (".json", ".txt", ".model", ".jinja", ".tiktoken")  # what tokenizers read whole
_TEMPLATES = "additional_chat_templates"


@dataclasses.dataclass(frozen=True)
class LM:
    """A language model: its parameters on a mesh, its tokenizer (or None) and config.json."""

    language: Language
    params: Params
    mesh: Mesh
    config: Mapping[str, Any]
    tokenizer: Any = None

    def logits(self, tokens: Int[Host, "b t"], mask: Int[Host, "b t"]) -> Float[Host, "b t v"]:
        """Of the token after each, float32. `mask` is 0 for padding, on either side.

        Raises ValueError for ids outside the vocabulary.
        """
        tokens, mask = np.asarray(tokens), np.asarray(mask)
        rows = [row[there > 0] for row, there in zip(tokens, mask, strict=True)]
        self._check("row", [row for row in rows if len(row)])
        return model.logits(self.language, self.params, self.mesh, tokens, mask)

    def generate(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str] | list[list[int]]:
        """What follows each prompt: texts after texts, ids after ids. Temperature 0 is greedy.

        A text gets a BOS before it, where the model has one; ids are taken as they are. Raises
        ValueError for a prompt without a token or with an id outside the vocabulary.
        """
        if not len(prompts):
            return []
        texts = isinstance(prompts[0], str)
        ids = [self._ids(prompt) for prompt in prompts] if texts else prompts
        self._check("prompt", ids)
        keys = None
        if temperature > 0:
            base = jax.random.key(seed, impl="threefry2x32")
            keys = jax.vmap(jax.random.fold_in, (None, 0))(base, jnp.arange(len(ids)))
        found = model.generate(
            self.language, self.params, self.mesh, ids, 1, max_new_tokens, keys, temperature, top_p
        )
        rows = [[int(token) for token in row[0] if token != model.NONE] for row in found.tokens]
        if not texts:
            return rows
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def perplexity(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        targets: Sequence[str] | Sequence[Sequence[int]],
    ) -> Float[Host, " b"]:
        """exp of the mean negative log-likelihood of a target's tokens after its prompt.

        Raises ValueError as `generate`, also of targets.
        """
        if not len(prompts):
            return np.zeros(0, np.float32)
        if isinstance(prompts[0], str):
            prompts = [self._ids(prompt) for prompt in prompts]
            targets = [self.tokenizer.encode(text, add_special_tokens=False) for text in targets]
        self._check("prompt", prompts)
        self._check("target", targets)
        total = model.log_probs(self.language, self.params, self.mesh, prompts, targets)
        return np.exp(-total / np.array([len(target) for target in targets]))

    def _check(self, what: str, rows: Sequence[Sequence[int]]) -> None:
        vocabulary = self.language.architecture.vocabulary
        for i, row in enumerate(rows):
            if not len(row):
                raise ValueError(f"{what} {i} has no token")
            if not 0 <= min(row) <= max(row) < vocabulary:
                raise ValueError(f"{what} {i} has an id outside the vocabulary of {vocabulary}")

    def _ids(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise ModelError("the directory has no tokenizer: give ids instead of texts")
        # Fast tokenizers do not agree on whether they add it.
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        return start + self.tokenizer.encode(text, add_special_tokens=False)


def load(folder: str | os.PathLike, precision: str = "float32", mesh: Mesh | None = None) -> LM:
    """The model of a directory, tensor by tensor onto the mesh, in the dtypes that it is saved in.

    `precision`: what it computes in, float32 or bfloat16. Raises ModelError where the directory
    is no model that can be used here: the path and the reason.
    """
    folder, mesh = Path(folder), mesh or sharding.mesh()
    config = read_config(folder)
    architecture = architecture_of(config, folder / CONFIG)
    eos = config.get("eos_token_id")
    eos = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    most = architecture.vocabulary
    if not all(type(token) is int and model.NONE <= token < most for token in eos):
        raise ModelError(
            f"{folder / CONFIG}: eos_token_id = {eos!r} must be numbers of tokens below the "
            f"vocabulary of {most}"
        )
    language = Language(architecture, eos or (model.NONE,), precision)
    tokenizer = load_tokenizer(folder, architecture.vocabulary)
    return LM(language, _params(folder, architecture, mesh), mesh, config, tokenizer)


def save(lm: LM, folder: str | os.PathLike, shard_bytes: int = shards.SHARD_BYTES) -> None:
    """Write a directory that transformers loads. Raises WorkdirError where the disk refuses it."""
    folder = Path(folder)
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(lm.params)}
    config = {k: v for k, v in lm.config.items() if k not in ("dtype", "torch_dtype")}
    config["dtype"] = dtypes.pop() if len(dtypes) == 1 else "float32"

    def tokenizer():
        for name in _TOKENIZER:  # that of another model, which was here
            (folder / name).unlink(missing_ok=True)
        try:
            if lm.tokenizer is not None:
                lm.tokenizer.save_pretrained(folder)
        except Exception as error:  # `tokenizers` has no class of its own for a full disk
            raise OSError(str(error)) from None

    shards.write(folder, flat_leaves(lm.params), config, shard_bytes, tokenizer)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a directory; ModelError where it is none, or wants code of its own."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: is no folder")
    config = json_object(folder / CONFIG)
    if "auto_map" in config:
        raise ModelError(f"{folder / CONFIG}: has auto_map, code of its own, which is never run")
    return config


def architecture_of(config: Mapping[str, Any], file: Path) -> Architecture:
    """What a config.json asks for, in transformers' style of before and since version 5.

    Raises ModelError, which names the file, for what is missing, not a number or not supported.
    """

    def refuse(rule):
        raise ModelError(f"{file}: {rule}")

    family = config.get("model_type")
    named = config.get("architectures") or []
    if not isinstance(named, list):
        refuse(f"architectures = {named!r} must be a list")
    if family not in [*FAMILIES] or (named and named[0] != FAMILIES[family][0]):
        known = ", ".join(name for name, _ in FAMILIES.values())
        refuse(
            f"is of {named[0] if named else family!r}, which is not supported; supported: {known}"
        )
    config = {k: v for k, v in {**FAMILIES[family][1], **config}.items() if v is not None}

    def number(name, default=None, kind=int, low=1, high=2**31, of=None):
        value = (of or config).get(name, default)
        whole = isinstance(value, int if kind is int else (int, float))
        if not whole or isinstance(value, bool) or not low <= value <= high:
            refuse(f"{name} = {value!r} must be a number from {low} to {high}")
        return kind(value)

    def flag(name, default=False):
        value = config.get(name, default)
        if not isinstance(value, bool):
            refuse(f"{name} = {value!r} must be true or false")
        return value

    if config.get("hidden_act", "silu") != "silu":
        refuse(f"hidden_act = {config['hidden_act']!r} is not supported; supported: silu")
    for name in ("mlp_bias", "quantization_config"):
        if config.get(name):
            refuse(f"{name} is not supported")
    if family == "llama" and flag("attention_bias"):
        refuse("attention_bias is not supported")
    width, heads = number("hidden_size", high=2**20), number("num_attention_heads", high=2**14)
    if width % heads and "head_dim" not in config:
        refuse(f"hidden_size = {width} must be a multiple of num_attention_heads = {heads}")
    kv_heads = number("num_key_value_heads", heads, high=2**14)
    if heads % kv_heads:
        refuse(f"num_attention_heads = {heads} must be a multiple of num_key_value_heads")
    head = number("head_dim", width // heads, high=2**12)
    if head % 2:
        refuse(f"head_dim = {head} must be even")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        refuse("rope_parameters is no object")
    theta = number("rope_theta", 10_000.0, float, high=1e15, of={**config, **rope})
    kind = rope.get("rope_type", rope.get("type", "default"))
    scaling = None
    if kind == "llama3":
        names = "factor", "low_freq_factor", "high_freq_factor"
        found = [number(name, kind=float, low=1e-3, high=1e6, of=rope) for name in names]
        scaling = RopeScaling(*found, number("original_max_position_embeddings", of=rope))
        if scaling.low >= scaling.high:
            refuse("low_freq_factor must be below high_freq_factor")
    elif kind != "default":
        refuse(f"rope scaling {kind!r} is not supported; supported: default, llama3")
    windowed = family == "mistral" or (family == "qwen2" and flag("use_sliding_window"))
    if windowed and family == "qwen2":
        refuse("use_sliding_window is not supported")
    return Architecture(
        vocabulary=number("vocab_size", high=2**24),
        width=width,
        layers=number("num_hidden_layers", high=2**8),
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        feed_forward=number("intermediate_size", high=2**20),
        context=number("max_position_embeddings", 2048),
        rope_theta=theta,
        rope_scaling=scaling,
        epsilon=number("rms_norm_eps", kind=float, low=0, high=1),
        tied=flag("tie_word_embeddings"),
        qkv_bias=family == "qwen2",
        window=number("sliding_window", 0, low=0) if windowed else 0,
    )


def config_of(architecture: Architecture, eos: tuple[int, ...], bos: int | None) -> dict[str, Any]:
    """config.json of a Llama of our own."""
    a = architecture
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": a.vocabulary,
        "hidden_size": a.width,
        "intermediate_size": a.feed_forward,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head,
        "max_position_embeddings": a.context,
        "rms_norm_eps": a.epsilon,
        "rope_theta": a.rope_theta,
        "tie_word_embeddings": a.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": bos,
        "eos_token_id": list(eos) if len(eos) > 1 else eos[0],
    }


def load_tokenizer(folder: Path, vocabulary: int) -> Any:
    """The tokenizer of a directory, None where there is none.

    Raises ModelError where a file of it is broken, leads elsewhere, wants code of its own, or has
    more symbols than the model.
    """
    if not any(os.path.lexists(folder / name) for name in _SYMBOLS):
        return None
    # Which files are opened is for the tokenizer's class to say, and a file can name another class.
    inside = [folder, folder / _TEMPLATES] if os.path.lexists(folder / _TEMPLATES) else [folder]
    for place in inside:
        if (place.is_symlink() and place != folder) or not place.is_dir():
            raise ModelError(f"{place}: is not a plain folder")
        for path in place.iterdir():
            if path.is_symlink() or not path.is_dir():
                size = check_plain(path)
                if path.suffix in _READ and size > TOKENIZER_BYTES:
                    raise ModelError(f"{path}: has {size} bytes, over {TOKENIZER_BYTES}")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (folder / name).exists():
            continue
        about = json_object(folder / name, 8 * CONFIG_BYTES)
        if "auto_map" in about:
            raise ModelError(f"{folder / name}: has auto_map, code of its own, which is never run")
        for key, value in about.items():  # which transformers opens wherever it is
            if value and (key.endswith(("_file", "_files")) or key == "init_inputs"):
                raise ModelError(f"{folder / name}: has {key}, files of its own, which is refused")
    if not (folder / "tokenizer.json").exists() and (folder / "tokenizer.model").exists():
        try:
            for package in ("sentencepiece", "google.protobuf"):
                importlib.import_module(package)
        except ImportError:
            raise ModelError(
                f"{folder}/tokenizer.model: with no tokenizer.json it is read by two packages that "
                "are not installed: `pip install sentencepiece protobuf`"
            ) from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder.absolute()), local_files_only=True, trust_remote_code=False
        )
        size = max([len(tokenizer), *(last + 1 for last in tokenizer.get_vocab().values())])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever anybody's files provoke; a Rust panic is no Exception
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: its tokenizer cannot be read ({reason})") from None
    if size > vocabulary:
        raise ModelError(
            f"{folder}: the tokenizer has {size} symbols, and the model's embedding {vocabulary}"
        )
    return tokenizer


def flat_leaves(params: Params) -> dict[str, jax.Array]:
    """Parameters by their names, where they are."""
    leaves = jax.tree.leaves_with_path(params)
    return {".".join(key.key for key in path): leaf for path, leaf in leaves}


def _params(folder: Path, architecture: Architecture, mesh: Mesh) -> Params:
    found = shards.tensors_of(folder)
    last = f"model.layers.{architecture.layers - 1}.input_layernorm.weight"
    if last not in found:  # before layers are built, of which a config may ask for many
        raise ModelError(f"{folder}: lacks {last!r}, which {CONFIG} asks for")
    wanted = flat_leaves(llama.build(architecture).shapes)
    rest = {name for name in found if name not in wanted and not name.endswith(".inv_freq")}
    rest -= {"lm_head.weight"} if architecture.tied else set()
    if missing := sorted(wanted.keys() - found.keys()):
        raise ModelError(f"{folder}: lacks {_some(missing)}, which {CONFIG} asks for")
    if rest:
        raise ModelError(f"{folder}: has {_some(sorted(rest))}, which {CONFIG} does not ask for")
    for name, leaf in wanted.items():
        tensor = found[name]
        if tensor.shape != leaf.shape:
            raise ModelError(
                f"{tensor.file}: {name} has the shape {list(tensor.shape)}, and {CONFIG} asks for "
                f"{list(leaf.shape)}"
            )
        if tensor.dtype not in DTYPES:
            raise ModelError(f"{tensor.file}: {name} is {tensor.dtype}; one of {', '.join(DTYPES)}")
    places = flat_leaves(sharding.places(mesh, llama.axes, nested(wanted, folder)))
    read = shards.arrays({name: found[name] for name in wanted})
    return nested({name: sharding.put(array, places[name]) for name, array in read}, folder)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
