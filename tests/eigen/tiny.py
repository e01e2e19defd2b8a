"""A run so small that its programs compile in seconds."""

from synthjax.eigen import Spec

TINY = dict(
    size_min=2,
    size_max=2,
    encoding="P10",
    width=8,
    heads=2,
    encoder_layers=1,
    feed_forward=2,
    n_real=64,
    steps=6,
    generation_steps=6,
    batch=8,
    warmup=2,
    n=20,
    k=2,
    generator="sample",
    generations=2,
    n_test=10,
    k_test=2,
    decode_batch=8,
    save_steps=2,
    log_steps=2,
)


def tiny(**changes) -> Spec:
    return Spec(**{**TINY, **changes})
