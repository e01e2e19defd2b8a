"""Eigenvalues of symmetric matrices by a transformer that learns from its own guesses.

python -m launch.eigen --config=configs/eigen.py:VARIANT --workdir=runs/VARIANT

Runtimes are those of two CPU cores, compilation included; accuracies are greedy, within 2 %.

- demo: 2 × 2 matrices in digits, a generator of 20,000 real ones, two generations of the best of 8
  guesses by four verifiers. 7 to 10 minutes. Expect 0.46 before, and after two generations 0.36
  (none), 0.55 (oracle), 0.58 (residual), 0.41 (self), within 0.02.
- paper_small: accuracy against p* of a noisy verifier, 4 guesses each. 6 minutes. Expect a
  crossing of the generator's 0.46 near p* = 0.84; 0.59 at p* = 1, 0.40 at p* = 1/2.
- warmup_small: the generator alone, k beams. 1 minute. Expect at 1 % greedy 0.21, an oracle of 50
  beams 0.61, log-probability of 50 0.20.

For a GPU; not measured here, so the numbers are the published ones (arXiv 2406.07515), at 1 %:

- paper: accuracy against p* of a noisy verifier, from a generator of 200,000 real 5 × 5 matrices
  and 10 million guesses. Published: the generator's own accuracy is crossed near p* = 0.65.
- warmup: greedy, oracle of k and log-probability of k, k = 1 to 50. Published: 0.202 greedy, 0.604
  by an oracle of 50 beams, 0.192 by log-probability of 50.
- generations: ten generations of each regime, with and without a verifier. Nobody has published it.
- lawt: the published model and optimizer (Charton 2022), with an oracle.
"""

from ml_collections import config_dict

from synthjax.eigen import Spec
from synthjax.nn.seq2seq import LAWT
from synthjax.protocol.spec import to_config

# 2 × 2 matrices in digits and a small model, which two CPU cores train in half a minute.
SMALL = dict(
    size_min=2,
    size_max=2,
    encoding="P10",
    width=64,
    heads=4,
    encoder_layers=2,
    n_real=20_000,
    steps=1500,
    learning_rate=2e-3,
    warmup=200,
    n_test=2000,
)
# And its later generations, which go on from it.
SMALL_LATER = dict(**SMALL, start="generator", generation_steps=1500, n=50_000, generator="sample")
# 5 × 5 matrices and the default model, for a GPU.
LARGE = dict(
    n_real=200_000,
    steps=40_000,
    batch=256,
    precision="bfloat16",
    n_test=10_000,
    save_steps=5000,
)
PSI = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
K_TEST = (1, 2, 5, 10, 20, 50)


def demo() -> Spec:
    """Two generations of the best of 8 guesses, chosen by four verifiers."""
    return Spec(
        **SMALL_LATER,
        generations=2,
        k=8,
        selection="best_of_k",
        verifier_tolerance=0.01,
        residual_tolerance=0.01,
        sweep={"verifier": ("none", "oracle", "residual", "self")},
    )


def paper() -> Spec:
    """The published experiment: accuracy against p*, from a generator of 200,000 real matrices."""
    return Spec(
        **LARGE,
        generation_steps=100_000,
        n=10_000_000,
        verifier="noisy",
        decode_batch=4096,
        sweep={"psi": PSI},
    )


def paper_small() -> Spec:
    """The same question on two CPU cores."""
    return Spec(**SMALL_LATER, k=4, verifier="noisy", sweep={"psi": PSI})


def warmup() -> Spec:
    """What the first generator's k guesses are worth, and its choice among them."""
    return Spec(**LARGE, generations=0, sweep={"k_test": K_TEST})


def warmup_small() -> Spec:
    """The same question on two CPU cores."""
    return Spec(**SMALL, generations=0, sweep={"k_test": K_TEST})


def generations() -> Spec:
    """Ten generations of each regime, with and without a verifier."""
    return Spec(
        **LARGE,
        generation_steps=40_000,
        generations=10,
        n=1_000_000,
        decode_batch=4096,
        sweep={
            "verifier": ("none", "residual"),
            "regime": ("replace", "accumulate", "subsample", "mix"),
        },
    )


def lawt() -> Spec:
    """The published model and optimizer (Charton 2022)."""
    return Spec(
        **LAWT,
        n_real=200_000,
        steps=160_000,
        batch=64,
        learning_rate=1e-4,
        warmup=10_000,
        weight_decay=0.0,
        clip=5.0,
        b2=0.999,
        generation_steps=160_000,
        n=1_000_000,
        verifier="oracle",
        n_test=10_000,
        decode_batch=4096,
        save_steps=5000,
    )


VARIANTS = {
    "demo": demo,
    "paper": paper,
    "paper_small": paper_small,
    "warmup": warmup,
    "warmup_small": warmup_small,
    "generations": generations,
    "lawt": lawt,
}


def get_config(variant: str = "demo") -> config_dict.ConfigDict:
    """The variant's spec as a config."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; choices: {', '.join(VARIANTS)}")
    return to_config(VARIANTS[variant]())
