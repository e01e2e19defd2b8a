"""Results with labelled axes, from the records of a sweep's elements."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from synthjax.eigen.data import SPECTRA
from synthjax.eigen.measure import DECODINGS, TOLERANCES
from synthjax.eigen.spec import Spec
from synthjax.protocol.loop import Record
from synthjax.protocol.spec import fields_of, to_json

MEASURED = {
    "p_hat": "measured rate of wrong guesses",
    "phi_hat": "measured rate at which right guesses are kept",
    "psi_hat": "measured rate at which wrong guesses are kept",
    "p_star_hat": "measured breakdown point",
}
STATUS = ("fine", "not_finite", "not_converged", "nothing_kept")
# name: (long name, dimensions after `generation`)
VARIABLES = {
    "accuracy": ("test matrices answered rightly", ("tolerance", "decoding")),
    "accuracy_low": ("accuracy, 95 % low", ("tolerance", "decoding")),
    "accuracy_high": ("accuracy, 95 % high", ("tolerance", "decoding")),
    "accuracy_largest": (
        "greedy answers whose largest error is within τ max|λ|",
        ("tolerance",),
    ),
    "accuracy_each": ("eigenvalues of greedy answers within τ|λ|", ("tolerance",)),
    "accuracy_spectrum": (
        "greedy accuracy on matrices of another spectrum",
        ("test_spectrum", "tolerance"),
    ),
    "loss": ("test loss, nats for a token", ()),
    **{
        name + suffix: (long_name + end, ("tolerance",))
        for name, long_name in MEASURED.items()
        for suffix, end in (("", ""), ("_low", ", 95 % low"), ("_high", ", 95 % high"))
    },
    "kept": ("fraction of the guesses kept", ()),
    "examples": ("size of the training set", ()),
    "status": ("how the generation went", ()),
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
        ("tolerance", list(TOLERANCES), "τ: right if Σ|λ̂ − λ| < τ Σ|λ|"),
        ("decoding", list(DECODINGS), "how an answer is decoded"),
        ("test_spectrum", list(SPECTRA), "law of the eigenvalues tested"),
    ):
        coordinates[name] = (name, values, {"units": "1", "long_name": long_name})
    grid = tuple(len(values) for values in spec.sweep.values())
    variables = {}
    for name, (long_name, tail) in VARIABLES.items():
        shape = tuple(len(coordinates[dimension][1]) for dimension in tail)
        nothing = np.full(shape, np.nan)
        values = [[record.get(name, nothing) for record in point] for point in records]
        values = np.reshape(np.asarray(values, np.float64), (*grid, len(generations), *shape))
        attrs = {"units": "1", "long_name": long_name}
        if name == "status":
            values = values.astype(np.int8)
            attrs |= {
                "flag_values": np.arange(len(STATUS), dtype=np.int8),
                "flag_meanings": " ".join(STATUS),
            }
        variables[name] = ((*spec.sweep, "generation", *tail), values, attrs)
    return xr.Dataset(variables, coordinates, {"spec": to_json(spec)})
