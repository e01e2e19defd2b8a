"""Results with labelled axes, from the records of a sweep's elements."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from synthjax.protocol.loop import Record
from synthjax.protocol.spec import fields_of, to_json
from synthjax.summarize.rouge import METRICS
from synthjax.summarize.spec import Spec

MEASURED = {
    "p_hat": "measured rate of wrong guesses",
    "phi_hat": "measured rate at which right guesses are kept",
    "psi_hat": "measured rate at which wrong guesses are kept",
    "p_star_hat": "measured breakdown point",
}
STATUS = ("fine", "not_finite", "not_converged", "nothing_kept")
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
    **{
        name + suffix: (long_name + end, "1", (ROUGE,))
        for name, long_name in MEASURED.items()
        for suffix, end in (("", ""), ("_low", ", 95 % low"), ("_high", ", 95 % high"))
    },
    "right": ("ROUGE above which a guess counted as right", "1", (ROUGE,)),
    "rouge_guessed": ("ROUGE of all guesses", "1", (ROUGE,)),
    "rouge_kept": ("ROUGE of the kept guesses", "1", (ROUGE,)),
    "kept": ("fraction of the guesses kept", "1", ()),
    "examples": ("size of the training set", "1", ()),
    "status": ("how the generation went", "1", ()),
}


def to_dataset(spec: Spec, records: Sequence[Sequence[Record]]) -> xr.Dataset:
    """Results from records[point of the grid][generation]; NaN where nothing was measured."""
    coordinates = {}
    for name, values in spec.sweep.items():
        about = fields_of(spec)[name].metadata
        about = {"units": about["unit"], "long_name": about["doc"]}
        coordinates[name] = (name, list(values), about)
    generations = np.arange(spec.generations + 1)
    for name, values, long_name in (
        ("generation", generations, "times trained on guesses"),
        (ROUGE, list(METRICS), "which ROUGE"),
    ):
        coordinates[name] = (name, values, {"units": "1", "long_name": long_name})
    grid = tuple(len(values) for values in spec.sweep.values())
    variables = {}
    for name, (long_name, unit, tail) in VARIABLES.items():
        shape = tuple(len(coordinates[dimension][1]) for dimension in tail)
        nothing = np.full(shape, np.nan)
        values = [[record.get(name, nothing) for record in point] for point in records]
        values = np.reshape(np.asarray(values, np.float64), (*grid, len(generations), *shape))
        attrs = {"units": unit, "long_name": long_name}
        if name == "status":
            values = values.astype(np.int8)
            attrs |= {
                "flag_values": np.arange(len(STATUS), dtype=np.int8),
                "flag_meanings": " ".join(STATUS),
            }
        variables[name] = ((*spec.sweep, "generation", *tail), values, attrs)
    return xr.Dataset(variables, coordinates, {"spec": to_json(spec)})
