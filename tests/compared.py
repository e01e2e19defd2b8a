"""Two engines compared: runs of the same spec, and Kolmogorov–Smirnov tests of what they record.

A family of p-values fails if any is below FALSE_ALARM divided by their number (Bonferroni): a right
engine fails it for one seed in a thousand.
"""

import numpy as np
from scipy.stats import ks_2samp

from synthjax import mixture
from synthjax.mixture.spec import Spec

FALSE_ALARM = 1e-3
BASE = dict(verifier="linear", theta_gen=0.9, theta_ver=0.6, error_correlation=0.3)


def run(engine, **settings):
    return mixture.run(Spec(engine=engine, **settings))


def compared(ours, direct, names, times):
    """p-values of all grid points, variables and generations, where anything varies."""
    found = []
    for name in names:
        for t in times:
            a, b = (
                np.moveaxis(
                    ds[name].sel(generation=t).values, ds[name].dims.index("trajectory"), -1
                ).reshape(-1, ds.sizes["trajectory"])
                for ds in (ours, direct)
            )
            for x, y in zip(a, b, strict=True):
                x, y = x[np.isfinite(x)], y[np.isfinite(y)]
                assert abs(len(x) - len(y)) <= 5 * np.sqrt(1 + len(y)), (name, t)
                if np.ptp(y) > 0:
                    found.append(ks_2samp(x, y).pvalue)
    return found
