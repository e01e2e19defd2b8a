"""A run so small that its programs compile in seconds, on pairs that are written here."""

import numpy as np

from synthjax.summarize import Spec
from synthjax.summarize.pairs import Pair, write

WORDS = ("the", "a", "of", "to", "river", "market", "storm", "city", "minister", "match", "price")
TINY = dict(
    width=16,
    heads=2,
    kv_heads=1,
    layers=1,
    feed_forward=32,
    vocabulary=300,
    block=64,
    summary_tokens=16,
    n_real=40,
    steps=6,
    generation_steps=6,
    batch=8,
    warmup=2,
    n=20,
    k=2,
    generator="sample",
    generations=2,
    n_test=10,
    decode_batch=8,
    save_steps=2,
    log_steps=2,
    n_samples=3,
)


def written(path, count=120):
    """A JSON-lines file of made-up pairs: the summary is the beginning of the text."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 20)) for _ in range(count)]
    pairs = [Pair(f"{i}", "", "", text[:30].strip(), text) for i, text in enumerate(texts)]
    write(path, pairs)
    return str(path)


def tiny(data, **changes) -> Spec:
    return Spec(**{**TINY, "data": data, **changes})
