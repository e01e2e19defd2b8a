"""Power laws with an offset, fitted to errors, with intervals and a test beyond the data.

Residuals are differences of log error, under a loss that is linear for outliers, from many starts:
as language-model scaling laws are fitted (Hoffmann et al., *Training compute-optimal large language
models*, arXiv 2203.15556, section 3.3). Intervals are percentiles of a bootstrap.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.special import stdtrit

from synthjax.scaling.forms import LAWS, Columns, Law, Scales
from synthjax.scaling.robust import LIMIT, minimise

Array = np.ndarray
# Share of the values of x from which a law is judged: it is fitted to the others, the smaller ones.
HELD_OUT = 0.3
RESAMPLES = 400
# A residual this many robust standard deviations long counts as an outlier (Huber's 95 %).
OUTLIER = 1.345
# Scatters of log errors: the first guess, and one below which nothing is an outlier.
FIRST, SMALLEST = 0.1, 1e-4
# A law is called off where its residuals have a pattern that chance would make this rarely, and are
# not so small that the pattern hardly matters.
CHANCE, HARMLESS = 0.05, 0.01


class FitError(ValueError):
    """Data that no law can be fitted to."""


class Series(NamedTuple):
    """Errors to be fitted: `columns` of what they depend on, `error`, and its repeats if any.

    `repeats` are [points, trajectories], of which `error` is the mean. `dropped`: further points,
    of which nothing says whether they belong here.
    """

    name: str
    columns: dict[str, Float[Array, " points"]]
    error: Float[Array, " points"]
    repeats: Float[Array, "points trajectories"] | None = None
    dropped: int = 0


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law fitted to a series.

    Fields: `parameters` and their 95 % `intervals` by name; `r2` of the log errors and `scatter`,
    the root mean square of their residuals, about a relative error; `runs`, how rarely signs of
    residuals in order of x would change as seldom by chance, and `off`, whether by these two the
    law does not describe the series; `held_out`, the mean absolute log error on the points of
    largest x of a fit to the others, with `covered`, the share of them in that fit's 95 % band for
    new points (both NaN where there are too few); `points` fitted and `dropped` because their error
    is 0, negative or not finite, or the series had dropped them.
    """

    name: str
    law: str
    formula: str
    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    r2: float
    scatter: float
    runs: float
    off: bool
    held_out: float
    covered: float
    points: int
    dropped: int
    _law: Law = dataclasses.field(repr=False)
    _scales: Scales = dataclasses.field(repr=False)
    _free: Float[Array, " p"] = dataclasses.field(repr=False)
    _resampled: Float[Array, "resamples p"] = dataclasses.field(repr=False)

    def predict(self, **columns: Float[Array, " points"]) -> Float[Array, " points"]:
        """The error at these values of what it depends on."""
        return self._law.value(self._free, _floats(columns), self._scales)

    def band(self, **columns: Float[Array, " points"]) -> Float[Array, "2 points"]:
        """The 95 % band of the law, low and high."""
        every = self._law.value(self._resampled, _floats(columns), self._scales)
        return np.percentile(every, [2.5, 97.5], axis=0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; a number that is not finite becomes None."""
        public = (f.name for f in dataclasses.fields(self) if not f.name.startswith("_"))
        return {name: _plain(getattr(self, name)) for name in public}


def fit(series: Series, law: str = "power", seed: int = 0) -> Fit:
    """Fit a law, `power`, `geometric` or `surface`, to a series.

    The first column (for `surface`: n, T and the angle, in this order) is what is extrapolated. A
    bootstrap resamples trajectories where there are some that differ, and residuals elsewhere.
    Raises FitError for columns that the law cannot take or fewer points than its parameters + 2.
    """
    _check(series, law)
    fine = np.isfinite(series.error) & (series.error > 0)
    columns = {name: column[fine] for name, column in _floats(series.columns).items()}
    order = np.argsort(next(iter(columns.values())), kind="stable")
    columns = {name: column[order] for name, column in columns.items()}
    error = np.asarray(series.error, float)[fine][order]
    repeats = None if series.repeats is None else series.repeats[fine][order]
    needed = len(LAWS[law][0].names) + 2
    if len(error) < needed:
        raise FitError(
            f"{series.name}: {len(error)} points with an error > 0 are too few for the "
            f"{needed - 2} parameters of the law {law}; needs {needed}"
        )
    rng = np.random.default_rng(seed)
    form, scales, free = _best(law, error, columns)
    resampled = _bootstrap(form, scales, free, error, columns, repeats, rng)
    low, high = np.percentile(form.told(resampled, scales), [2.5, 97.5], axis=0)
    left = np.log(error) - _logs(form, columns, scales)(free)
    spread = ((np.log(error) - np.log(error).mean()) ** 2).sum()
    scatter = float(np.sqrt((left**2).mean()))
    # Along the first column, one line for each value of the others after another.
    runs = _chance_of_runs(left[np.lexsort(list(columns.values()))] > 0)
    far, covered = _beyond(law, error, columns, repeats, rng)
    values = form.told(free, scales)
    return Fit(
        name=series.name,
        law=law,
        formula=form.formula,
        parameters=dict(zip(form.names, map(float, values), strict=True)),
        intervals={
            name: (float(a), float(b)) for name, a, b in zip(form.names, low, high, strict=True)
        },
        r2=float(1 - (left**2).sum() / spread) if spread > 0 else math.nan,
        scatter=scatter,
        runs=runs,
        off=runs < CHANCE and scatter > HARMLESS,
        held_out=far,
        covered=covered,
        points=len(error),
        dropped=int((~fine).sum()) + series.dropped,
        _law=form,
        _scales=scales,
        _free=free,
        _resampled=resampled,
    )


def ranked(
    series: Series, laws: Sequence[str] = ("power", "geometric"), seed: int = 0
) -> list[Fit]:
    """Fits of several laws, that of the least held-out error first (or else of the largest R²).

    Raises FitError where `fit` does.
    """
    fits = [fit(series, law, seed) for law in laws]
    judged = all(math.isfinite(one.held_out) for one in fits)
    return sorted(fits, key=lambda one: one.held_out if judged else -one.r2)


def held_out(x: Float[Array, " points"]) -> Array:
    """Which points a law is judged from: those of the largest values of x."""
    values = np.unique(x)
    return x >= values[-max(1, round(HELD_OUT * len(values)))]


def _floats(columns: Mapping[str, Any]) -> dict[str, Float[Array, " points"]]:
    return {name: np.asarray(column, float) for name, column in columns.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(series: Series, law: str) -> None:
    if law not in LAWS:
        raise FitError(f"no law {law!r}; choices: {', '.join(LAWS)}")
    wanted = LAWS[law][0].columns
    if len(series.columns) != wanted:
        raise FitError(
            f"{series.name}: the law {law} takes {wanted} columns, "
            f"not {', '.join(series.columns) or 'none'}"
        )
    for i, (name, column) in enumerate(_floats(series.columns).items()):
        if not np.isfinite(column).all():
            raise FitError(f"{series.name}: {name} must be finite")
        if i == 0 and law != "geometric" and not (column > 0).all():
            raise FitError(f"{series.name}: {name} must be > 0 for the law {law}")


def _best(law: str, error: Array, columns: Columns) -> tuple[Law, Scales, Array]:
    """The form of the law, the scales of its columns and the free parameters that fit best."""
    scales = {name: _scale(column) for name, column in columns.items()}
    log, found = np.log(error), []
    for form in LAWS[law]:
        starts = np.array(list(form.starts(error, columns)))
        losses, free = minimise(_logs(form, columns, scales), log, starts, FIRST)
        found.append((losses.min(), free[losses.argmin()], form))
    _, free, form = min(found, key=lambda one: one[0])
    # Now that the scatter is known outliers can be told from it.
    logs = _logs(form, columns, scales)
    done = least_squares(
        lambda free: logs(free) - log,
        np.clip(free, 1 - LIMIT, LIMIT - 1),
        bounds=(-LIMIT, LIMIT),
        loss="soft_l1",
        f_scale=_scatter(logs(free) - log),
        max_nfev=100,
    )
    return form, scales, done.x


def _scale(column: Array) -> float:
    return float(column[column > 0].min()) if (column > 0).any() else 1.0


def _logs(form: Law, columns: Columns, scales: Scales) -> Callable[[Array], Array]:
    def logs(free):
        with np.errstate(all="ignore"):
            value = form.value(free, columns, scales)
            return np.log(np.clip(np.nan_to_num(value, nan=np.inf), 1e-300, 1e300))

    return logs


def _scatter(left: Array) -> float:
    return max(OUTLIER * 1.4826 * float(np.median(np.abs(left - np.median(left)))), SMALLEST)


def _lengthened(left: Array, parameters: int) -> Array:
    """Residuals around 0, of the length that they had before so many parameters were fitted.

    And longer where few are left to tell that length from, as Student's t is wider than a normal.
    """
    free = max(len(left) - parameters, 1)
    wider = stdtrit(free, 0.975) / stdtrit(math.inf, 0.975)
    return (left - left.mean()) * math.sqrt(len(left) / free) * wider


def _bootstrap(
    form: Law,
    scales: Scales,
    free: Array,
    error: Array,
    columns: Columns,
    repeats: Array | None,
    rng: np.random.Generator,
) -> Float[Array, "resamples p"]:
    logs = _logs(form, columns, scales)
    left = np.log(error) - logs(free)
    if repeats is not None and repeats.shape[1] > 1 and np.ptp(repeats, axis=1).any():
        # The same trajectories everywhere: grid points share their draws.
        count = repeats.shape[1]
        times = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        there = np.isfinite(repeats)
        with np.errstate(all="ignore"):
            again = (times @ np.where(there, repeats, 0).T) / (times @ there.T.astype(float))
            again = np.log(np.where(again > 0, again, np.nan))
    else:
        again = logs(free) + rng.choice(_lengthened(left, len(free)), (RESAMPLES, len(left)))
    return minimise(logs, again, np.tile(free, (RESAMPLES, 1)), _scatter(left))[1]


def _beyond(
    law: str,
    error: Array,
    columns: Columns,
    repeats: Array | None,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Mean absolute log error, and cover, on points beyond those fitted; NaN if there are few."""
    x = next(iter(columns.values()))
    outside = held_out(x)
    inside = ~outside
    if inside.sum() < len(LAWS[law][0].names) + 1 or len(np.unique(x[inside])) < 3:
        return math.nan, math.nan
    near = {name: column[inside] for name, column in columns.items()}
    far = {name: column[outside] for name, column in columns.items()}
    form, scales, free = _best(law, error[inside], near)
    part = None if repeats is None else repeats[inside]
    resampled = _bootstrap(form, scales, free, error[inside], near, part, rng)
    truth, logs = np.log(error[outside]), _logs(form, far, scales)
    left = _lengthened(np.log(error[inside]) - _logs(form, near, scales)(free), len(free))
    new = logs(resampled)
    low, high = np.percentile(new + rng.choice(left, new.shape), [2.5, 97.5], axis=0)
    covered = (low <= truth) & (truth <= high)
    return float(np.abs(logs(free) - truth).mean()), float(covered.mean())


def _chance_of_runs(positive: Array) -> float:
    """How likely so few runs of one sign are among as many of each (Wald and Wolfowitz 1940)."""
    n, m = int(positive.sum()), int((~positive).sum())
    seen = 1 + int((positive[1:] != positive[:-1]).sum())
    ways = 0
    for runs in range(1, seen + 1):
        more, less = -(-runs // 2), runs // 2  # runs of the sign that begins, and of the other
        ways += _cuts(n, more) * _cuts(m, less) + _cuts(m, more) * _cuts(n, less)
    return ways / math.comb(n + m, n)


def _cuts(count: int, runs: int) -> int:
    """Ways to cut `count` points into so many runs."""
    return math.comb(count - 1, runs - 1) if count and runs else int(count == runs)
