"""Hugging Face directories that are refused, and configs that say less than they mean."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
import transformers

from synthjax.io import shards
from synthjax.io.tensors import ModelError
from synthjax.summarize import hf, tokens

GOLDEN = Path(__file__).parent.parent / "golden"
TEXT = "Alice was beginning to get very tired of sitting by her sister on the bank"


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tmp_path):
    ignore = shutil.ignore_patterns("golden.npz")
    shutil.copytree(GOLDEN / "llama", tmp_path / "model", ignore=ignore)
    return tmp_path / "model"


def with_tokenizer(folder):
    """One of few words, for the golden models have only 96 symbols."""
    known = {word: i for i, word in enumerate(["?", *dict.fromkeys(TEXT.split())])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, "?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


def refusal(folder):
    with pytest.raises(ModelError) as error:
        hf.load(folder)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)
    return str(error.value)


def change(folder, name="config.json", **fields):
    config = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(config | fields))


LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0)
LLAMA3 |= dict(high_freq_factor=4.0, original_max_position_embeddings=16)


@pytest.mark.parametrize(
    "fields, says",
    [
        (dict(model_type="gpt2"), "'LlamaForCausalLM', which is not supported; supported: Llama"),
        (dict(architectures=["GPT2LMHeadModel"]), "is of 'GPT2LMHeadModel', which is not supp"),
        (dict(architectures=[], model_type=["llama"]), "is of ['llama'], which is not supported"),
        (dict(architectures=[["x\ny"]]), "which is not supported"),
        (dict(architectures={"a": 1}), "must be a list"),
        (dict(auto_map={"AutoModel": "evil.Model"}), "has auto_map, code of its own"),
        (dict(quantization_config={"bits": 4}), "quantization_config is not supported"),
        (dict(mlp_bias=True), "mlp_bias is not supported"),
        (dict(attention_bias=True), "attention_bias is not supported"),
        (dict(attention_bias="no"), "must be true or false"),
        (dict(hidden_act="gelu"), "hidden_act = 'gelu' is not supported"),
        (dict(hidden_size="32"), "hidden_size = '32' must be a number"),
        (dict(hidden_size=True), "hidden_size = True must be a number"),
        (dict(hidden_size=None), "hidden_size = None must be a number"),
        (dict(num_hidden_layers=10**9), "num_hidden_layers = 1000000000 must be a number from"),
        (dict(num_hidden_layers=200), "lacks 'model.layers.199.input_layernorm.weight'"),
        (dict(num_key_value_heads=3), "must be a multiple of num_key_value_heads"),
        (dict(hidden_size=33, head_dim=None), "must be a multiple of num_attention_heads"),
        (dict(head_dim=7), "head_dim = 7 must be even"),
        (dict(rms_norm_eps=float("nan")), "rms_norm_eps = nan must be a number"),
        (dict(rope_parameters=[1]), "rope_parameters is no object"),
        (dict(rope_parameters={"rope_theta": 10**400}), "must be a number from 1"),
        (dict(rope_parameters={"rope_type": "yarn"}), "rope scaling 'yarn' is not supported"),
        (dict(rope_parameters={"rope_type": "llama3"}), "factor = None must be a number"),
        (dict(rope_parameters=LLAMA3 | {"low_freq_factor": 4.0}), "must be below"),
        (dict(eos_token_id=[2, "x"]), "eos_token_id = (2, 'x') must be numbers"),
        (dict(eos_token_id={"a": []}), "must be numbers of tokens"),
        (dict(eos_token_id=[2, 96]), "must be numbers of tokens below the vocabulary of 96"),
        (dict(vocab_size=97), "has the shape [96, 32], and config.json asks for [97, 32]"),
        (dict(intermediate_size=47), "[32, 48], and config.json asks for [32, 47]"),
        (dict(num_hidden_layers=1), "has 'model.layers.1.input_layernorm.weight', "),
        (dict(num_hidden_layers=3), "lacks 'model.layers.2.input_layernorm.weight'"),
        (dict(tie_word_embeddings=True, num_hidden_layers=1), "which config.json does not ask for"),
    ],
)
def test_a_config_that_is_refused(folder, fields, says):
    change(folder, **fields)
    assert says in refusal(folder)


@pytest.mark.parametrize(
    "fields, window, kv_heads",
    [
        ({}, 4096, 8),
        (dict(sliding_window=None), 0, 8),
        (dict(sliding_window=7, num_key_value_heads=4), 7, 4),
    ],
)
def test_what_a_config_does_not_say(fields, window, kv_heads):
    """Is not what it says by null: both as transformers has it."""
    config = dict(model_type="mistral", hidden_size=32, num_attention_heads=16, vocab_size=96)
    config |= dict(num_hidden_layers=2, intermediate_size=48, **fields)
    theirs = transformers.MistralConfig(**config)
    assert (theirs.sliding_window or 0, theirs.num_key_value_heads) == (window, kv_heads)
    ours = hf.architecture_of(config, Path("config.json"))
    assert (ours.window, ours.kv_heads) == (window, kv_heads)


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "cannot be read"),
        (b"{", "is no JSON object"),
        (b"[1]", "is no JSON object"),
        (b"\xff", "is no JSON object"),
        (b'{"a":' * 100_000, "is no JSON object"),
        (b'{"hidden_size": 1' + b"0" * 5000 + b"}", "is no JSON object"),
        (b" " * (2**20 + 1), "has 1048577 bytes"),
    ],
    ids=["missing", "broken", "list", "bytes", "nested", "digits", "large"],
)
def test_a_config_that_is_none(folder, content, says):
    (folder / "config.json").unlink()
    if content:
        (folder / "config.json").write_bytes(content)
    assert f"{folder / 'config.json'}: {says}" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_no_link_is_followed(folder, name):
    shutil.copy(GOLDEN / "llama" / "config.json", folder.parent / "outside")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder.parent / "outside")
    assert f"{folder / name}: is not a plain file" in refusal(folder)


@pytest.fixture
def cached(folder):
    """The directory as Hugging Face's cache holds it: links to files named by their digest."""
    with_tokenizer(folder)
    download = folder.parent / "models--any--one"
    snapshot = download / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (download / "blobs").mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, download / "blobs" / f"{i:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i:064x}")
    return snapshot


def test_a_snapshot_of_the_cache_is_the_directory(folder, cached):
    """By any way to it."""
    (folder.parent / "mine").symlink_to(cached)
    expected = hf.load(folder)
    for place in (cached, folder.parent / "mine"):
        found = hf.load(place)
        assert found.tokenizer.encode(TEXT) == expected.tokenizer.encode(TEXT)
        jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("how", ["out", "on", "snapshot", "fifo", "blobs"])
def test_no_link_is_followed_out_of_a_download(folder, cached, name, how):
    """Nor one from blob to blob outside, nor to a pipe, nor where the blobs lie elsewhere."""
    link, blobs = cached / name, cached.parents[1] / "blobs"
    if how == "out":
        link.unlink()
        link.symlink_to(folder / name)
    elif how == "snapshot":
        shutil.copy(folder / name, cached / "other")
        link.unlink()
        link.symlink_to("other")
    elif how == "blobs":
        blobs.rename(folder.parent / "elsewhere")
        blobs.symlink_to(folder.parent / "elsewhere")
    else:
        blob = link.resolve()
        blob.unlink()
        blob.symlink_to(folder / name) if how == "on" else os.mkfifo(blob)
    said = refusal(cached)
    assert "is not a plain file" in said and (name in said or how == "blobs")


def test_what_reads_a_tokenizer_model_is_named_where_it_is_missing(folder, monkeypatch):
    (folder / "tokenizer.model").write_bytes(b"\n")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # an import of it fails
    assert "`pip install sentencepiece protobuf`" in refusal(folder)


@pytest.mark.parametrize("how", ["link", "name", "map", "class", "positional"])
def test_a_tokenizer_reads_nothing_outside(folder, how):
    """Whatever its class would open: the file of a version, or one that a config names."""
    with_tokenizer(folder)
    outside = folder.parent / "outside"
    outside.mkdir()
    secret = shutil.copy(folder / "tokenizer.json", outside / "tokenizer.4.0.json")
    (outside / "vocab.txt").write_text("secret\n")
    about, special = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    if how == "link":
        (folder / "tokenizer.4.0.json").symlink_to(secret)
        said = f"{folder / 'tokenizer.4.0.json'}: is not a plain file"
    elif how == "class":
        change(folder, about.name, tokenizer_class="BertTokenizer")
        (folder / "vocab.txt").symlink_to(outside / "vocab.txt")
        said = f"{folder / 'vocab.txt'}: is not a plain file"
    elif how == "name":
        change(folder, about.name, fast_tokenizer_files=["../outside/tokenizer.4.0.json"])
        said = f"{about}: has fast_tokenizer_files, files of its own"
    elif how == "map":
        special.write_text(json.dumps({"tokenizer_file": str(secret)}))
        said = f"{special}: has tokenizer_file, files of its own"
    else:
        change(folder, about.name, init_inputs=[str(secret)])
        said = f"{about}: has init_inputs, files of its own"
    assert said in refusal(folder)


@pytest.mark.parametrize("folder_too", [False, True])
def test_no_link_to_a_template_is_followed(folder, folder_too):
    """transformers reads any in this folder."""
    tokens.train([TEXT], 300).save_pretrained(folder)
    change(folder, vocab_size=400)
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "a.jinja").write_text("secret")
    templates = folder / "additional_chat_templates"
    if folder_too:
        templates.symlink_to(outside)
    else:
        templates.mkdir()
        (templates / "a.jinja").symlink_to(outside / "a.jinja")
    said = refusal(folder)
    assert str(templates) in said and "is not a plain" in said


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "weights.pkl"])
def test_no_pickle_is_opened(folder, name):
    marker = folder.parent / "unpickled"
    (folder / name).write_bytes(pickle.dumps(Payload(marker)))
    hf.load(folder)  # by its safetensors
    (folder / "model.safetensors").unlink()
    assert f"{folder / name}: may hold pickled code, which is never loaded" in refusal(folder)
    assert not marker.exists()


def test_no_code_is_run(folder):
    """Neither of a model nor of a tokenizer."""
    marker = folder.parent / "run"
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Evil: pass\n")
    tokens.train([TEXT], 300).save_pretrained(folder)
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    change(folder, vocab_size=400)
    assert "tokenizer_config.json: has auto_map, code of its own" in refusal(folder)
    change(folder, auto_map={"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"})
    assert "config.json: has auto_map, code of its own" in refusal(folder)
    assert not marker.exists()


def test_a_tokenizer_that_does_not_fit(folder):
    tokenizer = tokens.train([TEXT], 300)
    tokenizer.save_pretrained(folder)
    assert f"has {len(tokenizer)} symbols, and the model's embedding 96" in refusal(folder)


def tokenizer_json(**fields):
    return json.dumps({"version": "1.0", "added_tokens": [], "model": fields}).encode()


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "its tokenizer cannot be read"),
        (b"{}", "its tokenizer cannot be read"),
        (b"[" * 100_000, "its tokenizer cannot be read"),
        (b"\xff\xfe", "its tokenizer cannot be read"),
        # `tokenizers` panics at the first, and counts one symbol in the second.
        (tokenizer_json(type="BPE", vocab={"a": 0, "b": 1}, merges=["a b"]), "cannot be read"),
        (tokenizer_json(type="BPE", vocab={"a": 2**32 - 1}, merges=[]), "has 4294967296 symbols"),
    ],
    ids=["empty", "object", "nested", "bytes", "merges", "numbers"],
)
def test_a_tokenizer_that_is_broken(folder, content, says):
    (folder / "tokenizer.json").write_bytes(content)
    assert says in refusal(folder)


@pytest.mark.parametrize("more", [{"evil": np.ones(1, np.float32)}, {"a.b": np.ones(2, np.int64)}])
def test_a_tensor_that_is_not_asked_for(folder, more):
    arrays = dict(shards.arrays(shards.tensors_of(folder))) | more
    shards.write(folder, arrays, json.loads((folder / "config.json").read_text()))
    assert f"has {next(iter(more))!r}, which config.json does not ask for" in refusal(folder)


def test_a_dtype_that_is_not_computed_in(folder):
    arrays = dict(shards.arrays(shards.tensors_of(folder)))
    arrays["model.norm.weight"] = arrays["model.norm.weight"].astype(np.int8)
    shards.write(folder, arrays, json.loads((folder / "config.json").read_text()))
    assert "model.norm.weight is I8; one of F32, BF16, F16" in refusal(folder)


def test_weights_that_are_cut_short(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    assert refusal(folder).startswith(f"{folder / 'model.safetensors'}: ")


def test_an_index_that_leads_out_of_the_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    where = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(where))
    assert "names '../model.safetensors', no .safetensors beside it" in refusal(folder)


def test_what_is_no_directory_of_a_model(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert "is no folder" in refusal(tmp_path / "file")
    assert "is no folder" in refusal(tmp_path / "missing")
    assert "config.json: cannot be read" in refusal(tmp_path / "empty")


def test_prompts_that_are_none():
    """What would give a number of nothing, or read another symbol's row, is refused."""
    lm = hf.load(GOLDEN / "llama")
    assert lm.generate([], 3) == [] and lm.perplexity([], []).shape == (0,)
    for call in (
        lambda: lm.generate([[1], []], 3),
        lambda: lm.perplexity([[1]], [[]]),
        lambda: lm.perplexity([[]], [[1]]),
        lambda: lm.generate([[99_999]], 3),
        lambda: lm.logits([[1, 99_999]], [[1, 1]]),
    ):
        with pytest.raises(ValueError, match=r"has no token|outside the vocabulary"):
            call()
