"""Hugging Face directories: what transformers computes from them, and what is written.

`tests/golden` holds tiny checkpoints, and what PyTorch computed with them; `glassllm` a trained
model and a forward pass of its own, in NumPy.
"""

import dataclasses
import functools
from pathlib import Path

import glassllm
import jax
import numpy as np
import pytest
import transformers

from synthjax.io import shards
from synthjax.io.tensors import ModelError
from synthjax.io.workdir import WorkdirError
from synthjax.nn import sharding
from synthjax.nn.llama import Architecture
from synthjax.summarize import hf, model, tokens
from synthjax.summarize.model import Language

GOLDEN = Path(__file__).parent.parent / "golden"
KINDS = ("llama", "llama3", "mistral", "qwen2", "sharded")
TOLERANCE = 2e-5
EOS = 2
TEXT = "Alice was beginning to get very tired of sitting by her sister on the bank"


@functools.cache
def loaded(kind):
    with np.load(GOLDEN / kind / "golden.npz") as file:
        return hf.load(GOLDEN / kind), dict(file)


def read(folder):
    return dict(shards.arrays(shards.tensors_of(folder)))


def error_of(lm, golden):
    """Of full rows, and of those that are padded on the left, where they are not padding."""
    full = lm.logits(golden["tokens"], np.ones_like(golden["mask"]))
    left = lm.logits(golden["tokens"], golden["mask"])
    there = golden["mask"] > 0
    return max(
        np.abs(full - golden["full"]).max(), np.abs(left[there] - golden["left"][there]).max()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind):
    assert error_of(*loaded(kind)) < TOLERANCE


CHANGES = {
    "llama": dict(rope_theta=11_000.0),
    "llama3": dict(rope_scaling=None),
    "mistral": dict(window=6),
    "qwen2": dict(epsilon=1e-2),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_logits_would_show_a_mistake(kind):
    lm, golden = loaded(kind)
    changed = dataclasses.replace(lm.language.architecture, **CHANGES[kind])
    other = dataclasses.replace(lm, language=lm.language._replace(architecture=changed))
    assert error_of(other, golden) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj"])
def test_logits_would_show_a_bias_that_is_missing(name):
    lm, golden = loaded("qwen2")
    params = jax.tree.map_with_path(
        lambda path, leaf: leaf * ([key.key for key in path][-2:] != [name, "bias"]), lm.params
    )
    assert error_of(dataclasses.replace(lm, params=params), golden) > 100 * TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_continuations_and_likelihoods_are_those_of_transformers(kind):
    lm, golden = loaded(kind)
    rows = zip(golden["tokens"], golden["mask"], strict=True)
    prompts = [row[mask > 0].tolist() for row, mask in rows]
    for found, row in zip(lm.generate(prompts, 12), golden["greedy"].tolist(), strict=True):
        assert found == row[: row.index(EOS) + 1 if EOS in row else 12]
    cut = (5, 12, 23)
    prompts = [row[:n].tolist() for row, n in zip(golden["tokens"], cut, strict=True)]
    targets = [row[n:].tolist() for row, n in zip(golden["tokens"], cut, strict=True)]
    expected = [
        np.exp(-row[n - 1 :].mean()) for row, n in zip(golden["log_prob"], cut, strict=True)
    ]
    np.testing.assert_allclose(lm.perplexity(prompts, targets), expected, rtol=1e-4)


@pytest.mark.parametrize("shard_bytes", [20_000, 10**9])
@pytest.mark.parametrize("kind", KINDS)
def test_export_is_what_was_imported(kind, shard_bytes, tmp_path):
    """Byte for byte, in any shards; and transformers reads the same config."""
    hf.save(loaded(kind)[0], tmp_path, shard_bytes)
    found, expected = read(tmp_path), read(GOLDEN / kind)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes()
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_bytes < 10**6)
    one, other = (
        transformers.AutoConfig.from_pretrained(folder).to_dict()
        for folder in (tmp_path, GOLDEN / kind)
    )
    for config in (one, other):
        config.pop("_name_or_path", None)
    assert one == other
    assert hf.load(tmp_path).language == loaded(kind)[0].language


def test_a_real_pretrained_model(tmp_path):
    """Its matrices lie the other way, and the pairs that are rotated are neighbours."""
    theirs, tokenizer = glassllm.load_pretrained("en")
    c = theirs.cfg
    arrays = {name: part.data for name, part in theirs.named_parameters().items()}
    head = c.d_model // c.n_heads

    def halves(matrix):
        return matrix.T.reshape(-1, head // 2, 2, c.d_model).swapaxes(1, 2).reshape(-1, c.d_model)

    found = {"model.embed_tokens.weight": arrays["E"], "model.norm.weight": arrays["norm_f.gamma"]}
    for i in range(c.n_layers):
        own, here = f"blocks.{i}.", f"model.layers.{i}."
        found |= {
            here + "self_attn.q_proj.weight": halves(arrays[own + "attn.W_Q"]),
            here + "self_attn.k_proj.weight": halves(arrays[own + "attn.W_K"]),
            here + "self_attn.v_proj.weight": arrays[own + "attn.W_V"].T,
            here + "self_attn.o_proj.weight": arrays[own + "attn.W_O"].T,
            here + "mlp.gate_proj.weight": arrays[own + "ffn.W1"].T,
            here + "mlp.up_proj.weight": arrays[own + "ffn.W3"].T,
            here + "mlp.down_proj.weight": arrays[own + "ffn.W2"].T,
            here + "input_layernorm.weight": arrays[own + "norm1.gamma"],
            here + "post_attention_layernorm.weight": arrays[own + "norm2.gamma"],
        }
    width = found["model.layers.0.mlp.gate_proj.weight"].shape[0]
    architecture = Architecture(
        *(c.vocab_size, c.d_model, c.n_layers, c.n_heads, c.n_kv_heads, head, width, c.max_len),
        rope_theta=c.rope_base,
        epsilon=c.eps,
    )
    shards.write(tmp_path, found, hf.config_of(architecture, (3,), 2))
    lm = hf.load(tmp_path)
    ids = tokenizer.encode(TEXT)
    logits = lm.logits(np.array([ids]), np.ones((1, len(ids)), int))
    np.testing.assert_allclose(logits, theirs.forward(ids).data, rtol=1e-5, atol=5e-5)
    greedy = [step.token for step in theirs.generate(ids, 8, greedy=True)]
    assert lm.generate([ids], 8)[0] == greedy
    shuffled = np.random.default_rng(0).permutation(ids).tolist()
    real, noise = lm.perplexity([ids[:1], shuffled[:1]], [ids[1:], shuffled[1:]])
    assert real < noise / 3  # it has learned English


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A small model with a tokenizer, and its directory."""
    tokenizer = tokens.train([TEXT] * 3, 300)
    architecture = Architecture(len(tokenizer), 16, 1, 2, 1, 8, 32, 64)
    language = Language(architecture, (tokenizer.eos_token_id,))
    params = jax.jit(model.build(language).init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: 8 * leaf, params)
    config = hf.config_of(architecture, language.eos, tokenizer.bos_token_id)
    lm = hf.LM(language, params, sharding.mesh(), config, tokenizer)
    folder = tmp_path_factory.mktemp("speaking")
    hf.save(lm, folder)
    return lm, folder


def test_saved_and_loaded_is_the_same(speaking):
    lm, folder = speaking
    again = hf.load(folder)
    assert again.language == lm.language and again.config == {**lm.config, "dtype": "float32"}
    jax.tree.map(np.testing.assert_array_equal, again.params, lm.params)
    assert again.tokenizer.get_vocab() == lm.tokenizer.get_vocab()
    assert again.tokenizer.encode(TEXT) == lm.tokenizer.encode(TEXT)


def test_texts_are_their_tokens_after_a_bos(speaking):
    lm = hf.load(speaking[1])
    texts = ["Alice was", "her sister on the bank"]
    bos, encode = lm.tokenizer.bos_token_id, lm.tokenizer.encode
    ids = [[bos, *encode(text, add_special_tokens=False)] for text in texts]
    assert lm.generate(texts, 5) == lm.tokenizer.batch_decode(
        lm.generate(ids, 5), skip_special_tokens=True
    )
    targets = [" tired of", " sitting"]
    expected = lm.perplexity(ids, [encode(text, add_special_tokens=False) for text in targets])
    np.testing.assert_array_equal(lm.perplexity(texts, targets), expected)
    with pytest.raises(ModelError, match="has no tokenizer"):
        dataclasses.replace(lm, tokenizer=None).generate(texts, 5)


def test_a_model_replaces_another_one(speaking, tmp_path):
    """Its tokenizer too, though the new one has none."""
    hf.save(speaking[0], tmp_path)
    hf.save(loaded("llama")[0], tmp_path, 20_000)
    again = hf.load(tmp_path)
    assert again.tokenizer is None and again.language == loaded("llama")[0].language


def test_a_model_keeps_its_tokenizer_until_what_replaces_it_is_there(
    speaking, tmp_path, monkeypatch
):
    hf.save(speaking[0], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(WorkdirError, match="No space left"):
        hf.save(loaded("llama")[0], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_tokenizer_that_cannot_be_written_leaves_no_model(speaking, tmp_path, monkeypatch):
    lm, _ = speaking

    def full(*_, **__):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(lm.tokenizer, "save_pretrained", full)
    with pytest.raises(WorkdirError, match=r"cannot be written \(No space left on device\)"):
        hf.save(lm, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_written(speaking, tmp_path):
    (tmp_path / "file").write_text("")
    for lm in (speaking[0], loaded("llama")[0]):
        with pytest.raises(WorkdirError, match="file: cannot be written"):
            hf.save(lm, tmp_path / "file")


def test_what_older_directories_have_besides(tmp_path):
    """A head that is the embedding, and the rotary frequencies."""
    lm, _ = loaded("llama3")
    more = {
        "lm_head.weight": np.ones((96, 32), np.float32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
    }
    shards.write(tmp_path, hf.flat_leaves(lm.params) | more, lm.config)
    jax.tree.map(np.testing.assert_array_equal, hf.load(tmp_path).params, lm.params)
