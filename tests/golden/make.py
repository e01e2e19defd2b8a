"""Makes the tiny checkpoints beside it, and what PyTorch's transformers compute with them.

    python tests/golden/make.py [--check=DIR,DIR]

Needs torch, which tests do not. Queries and keys are scaled by 6: with random weights attention is
nearly uniform otherwise, and a wrong rotary angle would hide. With --check: load directories that
synthjax wrote, by transformers, and compare logits and tokens with synthjax's own; and every tensor
and all that the config says with the checkpoint of that name beside this script, if there is one.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
SHARED = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
KINDS = {
    "llama": (
        transformers.LlamaForCausalLM,
        dict(num_key_value_heads=2, tie_word_embeddings=False),
    ),
    "llama3": (
        transformers.LlamaForCausalLM,
        dict(num_key_value_heads=1, tie_word_embeddings=True, head_dim=16, rope_parameters=LLAMA3),
    ),
    "qwen2": (
        transformers.Qwen2ForCausalLM,
        dict(num_key_value_heads=2, tie_word_embeddings=True),
    ),
    "mistral": (
        transformers.MistralForCausalLM,
        dict(num_key_value_heads=2, sliding_window=5, head_dim=8, tie_word_embeddings=False),
    ),
}


def model_of(kind: str):
    cls, own = KINDS[kind]
    torch.manual_seed(0)
    model = cls(cls.config_class(**SHARED, **own, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.5)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            elif "q_proj" in name or "k_proj" in name:
                parameter.mul_(6)
            else:
                parameter.mul_(3)
    return model


def computed(model) -> dict[str, np.ndarray]:
    """Logits of full rows and of left-padded ones, greedy continuations, log-likelihoods."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 96, (3, 24), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, :7], mask[2, :19] = 0, 0
    with torch.no_grad():
        full = model(tokens).logits
        left = model(tokens, attention_mask=mask).logits
        greedy = model.generate(
            tokens, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0
        )[:, 24:]
    return {
        "tokens": tokens.numpy(),
        "mask": mask.numpy(),
        "full": full.numpy(),
        "left": left.numpy(),
        "greedy": greedy.numpy(),
        "log_prob": torch.log_softmax(full, -1)[:, :-1]
        .gather(-1, tokens[:, 1:, None])[..., 0]
        .numpy(),
    }


def check(folder: Path) -> None:
    from synthjax.summarize import hf

    def loaded(folder, dtype):
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        ).eval()

    ours, theirs = hf.load(folder), loaded(folder, torch.float32)
    tokens = np.random.default_rng(0).integers(3, theirs.config.vocab_size, (3, 24))
    with torch.no_grad():
        logits = theirs(torch.asarray(tokens)).logits.numpy()
    apart = np.abs(ours.logits(tokens, np.ones_like(tokens)) - logits).max()
    assert apart < 1e-4, apart
    if ours.tokenizer is not None:
        text = "A text, naïve.\nTL;DR:"
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        assert tokenizer.encode(text) == ours.tokenizer.encode(text)
    size = np.abs(logits).max()
    print(f"{folder}: transformers loads it; logits of size {size:.3g}, {apart:.1e} apart")
    if not (HERE / folder.name).is_dir():
        return
    before, after = loaded(HERE / folder.name, "auto"), loaded(folder, "auto")
    told, tells = (model.config.to_dict() for model in (before, after))
    for config in (told, tells):
        config.pop("_name_or_path")
    assert told == tells, {k: (told.get(k), v) for k, v in tells.items() if told.get(k) != v}
    found = after.state_dict()
    assert found.keys() == before.state_dict().keys()
    for name, parameter in before.state_dict().items():
        assert parameter.dtype == found[name].dtype and torch.equal(parameter, found[name]), name
    print(f"{folder}: every tensor and the config are those of {HERE / folder.name}")


def main() -> None:
    if len(sys.argv) > 1:
        for folder in sys.argv[1].removeprefix("--check=").split(","):
            check(Path(folder))
        return
    for kind in KINDS:
        model = model_of(kind)
        model.save_pretrained(HERE / kind)
        np.savez_compressed(HERE / kind / "golden.npz", **computed(model))
    # The same as in older directories: shards, bfloat16, rope_theta at the top.
    folder = HERE / "sharded"
    model_of("llama").to(torch.bfloat16).save_pretrained(folder, max_shard_size="20KB")
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    np.savez_compressed(folder / "golden.npz", **computed(model.eval()))


if __name__ == "__main__":
    main()
