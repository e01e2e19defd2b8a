"""Summaries by a language model that is fine-tuned on its own selected ones.

python -m launch.summarize --config=configs/summarize.py:VARIANT --workdir=runs/VARIANT

- demo: news articles that a package brings, a Llama of 1.5 million parameters trained from nothing
  on 900 of them, two generations of the best of 8 sampled summaries, by ROUGE or by chance. For two
  CPU cores: 7 min 30 s, on slower ones with other work beside it 9 min 8 s. ROUGE-1 0.140 before,
  0.152 after by the oracle, 0.137 by chance, ± 0.011 (0.150 and 0.138 where other rounding drew
  other samples); p* = 0.95 and 0.49.
- verifiers: an oracle, the generator itself and chance, each at three rates and for three seeds, by
  a Llama of the same size, on package descriptions:
  `python -m launch.prepare_data --source=debian --out=data/debian` first. 55 minutes on two CPU
  cores that did other things too. ROUGE-1 0.214 before; after, at 12.5, 25 and 50 %: oracle 0.219,
  0.225, 0.222, self 0.209, 0.215, 0.213, random 0.209, 0.211, 0.215.

For a GPU; not measured here:

- small: a Llama of 34 million parameters, trained from nothing on the same descriptions.
- smollm2: SmolLM2-135M from `--config.model=DIR`, on XL-Sum from `--config.data=DIR`.
- llama2_7b: the published experiment (arXiv 2406.07515, section 6.2): Llama-2-7B on XL-Sum, of
  which an eighth trains the generator. Published: random selection ends below the generator, an
  oracle above it at every rate. Each rate learns for as many steps, 0.3 epochs of a half of the
  guesses and 1.2 of an eighth. For a pod: two rows of the batch for each sixteenth of its chips,
  which share the parameters, such as 4 of 64 TPU v5p or 16 of 256 v5e.
- llama2_7b_node: the same for 8 chips of 80 GB, of which 4 share the parameters.
"""

import dataclasses

from ml_collections import config_dict

from synthjax.protocol.spec import to_config
from synthjax.summarize import Spec

RATES = (0.125, 0.25, 0.5)


def demo() -> Spec:
    """Two generations, oracle against random selection."""
    return Spec(
        block=160,
        summary_tokens=32,
        vocabulary=2048,
        width=160,
        layers=4,
        heads=4,
        kv_heads=2,
        feed_forward=432,
        article_loss=1.0,
        n_real=900,
        steps=900,
        start="generator",
        generation_steps=200,
        generation_learning_rate=3e-4,
        generations=2,
        n=800,
        generator="sample",
        k=8,
        selection="best_of_k",
        sweep={"verifier": ("random", "oracle")},
    )


def verifiers() -> Spec:
    """Three verifiers at three rates, three times."""
    return Spec(
        data="data/debian",
        block=96,
        summary_tokens=16,
        vocabulary=2048,
        width=160,
        layers=4,
        heads=4,
        kv_heads=2,
        feed_forward=432,
        article_loss=0.3,
        n_real=6000,
        steps=1500,
        batch=32,
        learning_rate=2e-3,
        start="generator",
        generation_steps=150,
        generation_learning_rate=3e-4,
        n=8000,
        decode_batch=256,
        sweep={
            "seed": (0, 1, 2),
            "verifier": ("random", "oracle", "self"),
            "rate": RATES,
        },
    )


def small() -> Spec:
    """A model of 34 million parameters, trained from nothing on package descriptions."""
    return Spec(
        data="data/debian",
        block=256,
        summary_tokens=32,
        pack=True,
        vocabulary=8192,
        width=512,
        layers=10,
        heads=8,
        kv_heads=4,
        feed_forward=1408,
        precision="bfloat16",
        article_loss=0.5,
        n_real=6000,
        steps=1500,
        batch=32,
        generation_steps=1500,
        n=20_000,
        decode_batch=512,
        save_steps=5000,
        sweep={
            "seed": (0, 1, 2),
            "verifier": ("random", "oracle", "self"),
            "rate": RATES,
        },
    )


def smollm2() -> Spec:
    """SmolLM2-135M, which Llama's code runs, on XL-Sum, an oracle round after round."""
    return Spec(
        data="data/xlsum",
        initial="pretrained",
        model="models/SmolLM2-135M",
        block=1024,
        summary_tokens=64,
        pack=True,
        precision="bfloat16",
        n_real=38_000,
        steps=1200,
        batch=32,
        learning_rate=5e-5,
        generation_steps=1200,
        generation_learning_rate=2e-5,
        generation_end=1.0,
        generations=15,
        n=100_000,
        decode_batch=256,
        sweep={"verifier": ("random", "oracle", "self")},
    )


def llama2_7b() -> Spec:
    """The published experiment."""
    return Spec(
        data="data/xlsum",
        initial="pretrained",
        model="models/Llama-2-7b-hf",
        block=1024,
        summary_tokens=64,
        precision="bfloat16",
        remat=True,
        n_real=38_000,
        steps=1200,
        batch=32,
        learning_rate=5e-5,
        end=0.0,
        generation_steps=1200,
        generation_learning_rate=2e-5,
        generation_end=1.0,
        n=260_000,
        decode_batch=256,
        mesh={"data": 16, "fsdp": 1, "tensor": -1},
        sweep={"verifier": ("random", "oracle", "self"), "rate": RATES},
    )


def llama2_7b_node() -> Spec:
    """The published experiment on one host."""
    return dataclasses.replace(llama2_7b(), mesh={"data": -1, "fsdp": 1, "tensor": 4})


VARIANTS = {
    "demo": demo,
    "verifiers": verifiers,
    "small": small,
    "smollm2": smollm2,
    "llama2_7b": llama2_7b,
    "llama2_7b_node": llama2_7b_node,
}


def get_config(variant: str = "demo") -> config_dict.ConfigDict:
    """The variant's spec as a config."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; choices: {', '.join(VARIANTS)}")
    return to_config(VARIANTS[variant]())
