"""Results with labelled axes, from the records of a sweep's elements."""

from collections.abc import Sequence

import xarray as xr

from synthjax.eigen.data import SPECTRA
from synthjax.eigen.measure import DECODINGS, TOLERANCES
from synthjax.eigen.spec import Spec
from synthjax.protocol import elements
from synthjax.protocol.loop import Record

# name: (long name, unit, dimensions after `generation`)
VARIABLES = {
    "accuracy": ("test matrices answered rightly", "1", ("tolerance", "decoding")),
    "accuracy_low": ("accuracy, 95 % low", "1", ("tolerance", "decoding")),
    "accuracy_high": ("accuracy, 95 % high", "1", ("tolerance", "decoding")),
    "accuracy_largest": (
        "greedy answers whose largest error is within τ max|λ|",
        "1",
        ("tolerance",),
    ),
    "accuracy_each": ("eigenvalues of greedy answers within τ|λ|", "1", ("tolerance",)),
    "accuracy_spectrum": (
        "greedy accuracy on matrices of another spectrum",
        "1",
        ("test_spectrum", "tolerance"),
    ),
    "loss": ("test loss for a token", "nat", ()),
    **elements.rates("tolerance"),
    "kept": ("fraction of the guesses kept", "1", ()),
    "examples": ("size of the training set", "1", ()),
}


def to_dataset(spec: Spec, records: Sequence[Sequence[Record]]) -> xr.Dataset:
    """Results from records[point of the grid][generation]; NaN where nothing was measured."""
    dimensions = {
        "tolerance": (list(TOLERANCES), "τ: right if Σ|λ̂ − λ| < τ Σ|λ|"),
        "decoding": (list(DECODINGS), "how an answer is decoded"),
        "test_spectrum": (list(SPECTRA), "law of the eigenvalues tested"),
    }
    return elements.to_dataset(spec, records, VARIABLES, dimensions)
