"""Results with labelled axes, from the records of a sweep's elements."""

from collections.abc import Sequence

import xarray as xr

from synthjax.protocol import elements
from synthjax.protocol.loop import Record
from synthjax.summarize.rouge import METRICS
from synthjax.summarize.spec import Spec

# The name of the axis of METRICS.
ROUGE = "metric"
# name: (long name, unit, dimensions after `generation`)
VARIABLES = {
    "rouge": ("ROUGE F-measure of greedy summaries of the test articles", "1", (ROUGE,)),
    "rouge_low": ("rouge, 95 % low (bootstrap over articles)", "1", (ROUGE,)),
    "rouge_high": ("rouge, 95 % high (bootstrap over articles)", "1", (ROUGE,)),
    "perplexity": ("of the test references", "1", ()),
    "distinct_1": ("different words, as a share of all, in test summaries", "1", ()),
    "distinct_2": ("different pairs of words, as a share of all, in test summaries", "1", ()),
    "entropy": ("of the distribution of words in test summaries", "bit", ()),
    "words": ("of a test summary, on average", "1", ()),
    "same": ("test summaries that another one equals", "1", ()),
    **elements.rates(ROUGE),
    "right": ("ROUGE above which a guess counted as right", "1", (ROUGE,)),
    "rouge_guessed": ("ROUGE of all guesses", "1", (ROUGE,)),
    "rouge_kept": ("ROUGE of the kept guesses", "1", (ROUGE,)),
    "kept": ("fraction of the guesses kept", "1", ()),
    "examples": ("size of the training set", "1", ()),
}


def to_dataset(spec: Spec, records: Sequence[Sequence[Record]]) -> xr.Dataset:
    """Results from records[point of the grid][generation]; NaN where nothing was measured."""
    return elements.to_dataset(spec, records, VARIABLES, {ROUGE: (list(METRICS), "which ROUGE")})
