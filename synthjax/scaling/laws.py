"""Power laws with an offset, fitted to errors, with intervals and a test beyond the data.

Residuals are differences of log error, under a loss that is linear for outliers, from many starts:
as language-model scaling laws are fitted (Hoffmann et al., *Training compute-optimal large language
models*, arXiv 2203.15556, section 3.3). Intervals are percentiles of a bootstrap.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.special import expit

# Points from which a law is judged: it is fitted to the others, which have the smaller x.
HELD_OUT = 0.3
RESAMPLES = 200
# A residual this many robust standard deviations long counts as an outlier (Huber's 95 %).
OUTLIER = 1.345
SMALLEST = 1e-4  # scatter of log errors, below which nothing is an outlier
Array = np.ndarray
Columns = Mapping[str, Float[Array, " points"]]


class FitError(ValueError):
    """Data that no law can be fitted to."""


class Series(NamedTuple):
    """Errors to be fitted: `columns` of what they depend on, `error`, and its repeats if any.

    `repeats` are [points, trajectories], of which `error` is the mean.
    """

    name: str
    columns: dict[str, Float[Array, " points"]]
    error: Float[Array, " points"]
    repeats: Float[Array, "points trajectories"] | None = None


class Law(NamedTuple):
    """A form of the error: `value` from parameters and columns, and where to start from.

    `names` are those of the parameters; `free` maps them to unbounded ones, `bound` back.
    """

    formula: str
    names: tuple[str, ...]
    value: Callable[[Array, Columns, Mapping[str, float]], Float[Array, " points"]]
    starts: Callable[[Array, Columns], Any]
    told: Callable[[Array, Mapping[str, float]], Array]


def _scaled(columns: Columns, scales: Mapping[str, float]) -> list[Array]:
    return [columns[name] / scale for name, scale in scales.items()]


def _offset_and_size(free: Array, sign: int) -> tuple[float, float]:
    """E > 0, and the size of the rest at the smallest x: positive, or what leaves an error > 0."""
    offset = np.exp(free[0])
    return offset, np.exp(free[1]) if sign > 0 else -offset * expit(free[1])


def _power(sign: int) -> Law:
    """E + A x^−α; with A < 0 it rises towards E."""

    def value(free, columns, scales):
        [x] = _scaled(columns, scales)
        offset, size = _offset_and_size(free, sign)
        return offset + size * x ** -(free[2] if sign > 0 else np.exp(free[2]))

    def starts(error, columns):
        low, high = error.min(), error.max()
        for share, exponent in itertools.product((0.02, 0.5, 0.95), (0.25, 0.5, 1.0, 2.0)):
            if sign > 0:
                size = max(error[0] - share * low, 0.1 * low)
                for direction in (1, -1):
                    yield [np.log(share * low), np.log(size), direction * exponent]
            else:
                yield [np.log(high), 0.0, np.log(exponent)]

    def told(free, scales):
        [scale] = scales.values()
        offset, size = _offset_and_size(free, sign)
        exponent = free[2] if sign > 0 else np.exp(free[2])
        return np.array([offset, size * scale**exponent, exponent])

    return Law("E + A x^-alpha", ("E", "A", "alpha"), value, starts, told)


def _geometric(sign: int) -> Law:
    """E + A rˣ, 0 < r < 1; with A < 0 it rises towards E."""

    def value(free, columns, scales):
        [(name, start)] = scales.items()
        offset, size = _offset_and_size(free, sign)
        return offset + size * expit(free[2]) ** (columns[name] - start)

    def starts(error, columns):
        low, high = error.min(), error.max()
        for rate in (-2.0, 0.0, 1.5, 3.0):
            if sign > 0:
                for share in (0.02, 0.5, 0.95):
                    size = max(error[0] - share * low, 0.1 * low)
                    yield [np.log(share * low), np.log(size), rate]
            else:
                yield [np.log(high), 0.0, rate]

    def told(free, scales):
        [start] = scales.values()
        offset, size = _offset_and_size(free, sign)
        rate = expit(free[2])
        return np.array([offset, size * rate**-start, rate])

    return Law("E + A r^x", ("E", "A", "r"), value, starts, told)


def _surface() -> Law:
    """E + B θ^β + A n^−α + D r^T: what the verifier does not know, what n examples do not show,
    and what is left of the first generator after T generations, each of which forgets the same
    share of it (`theory.population_direction` halves its angle).
    """

    def value(free, columns, scales):
        n, t, angle = (columns[name] for name in scales)
        scale = list(scales.values())
        offset, a, b, left = np.exp(free[:4])
        return (
            offset
            + a * (n / scale[0]) ** -np.exp(free[4])
            + b * (np.maximum(angle, 0) / scale[2]) ** np.exp(free[5])
            + left * expit(free[6]) ** (t - scale[1])
        )

    def starts(error, columns):
        low, high = error.min(), error.max()
        for alpha, beta, rate in itertools.product((0.5, 1.0), (1.0, 2.0), (-1.0, 1.0)):
            sizes = np.log([low / 2, (high - low) / 3, (high - low) / 3, (high - low) / 3])
            yield [*sizes, np.log(alpha), np.log(beta), rate]

    def told(free, scales):
        n, t, angle = scales.values()
        offset, a, b, left = np.exp(free[:4])
        alpha, beta, rate = np.exp(free[4]), np.exp(free[5]), expit(free[6])
        return np.array(
            [offset, a * n**alpha, alpha, b * angle**-beta, beta, left * rate**-t, rate]
        )

    names = ("E", "A", "alpha", "B", "beta", "D", "r")
    return Law("E + A n^-alpha + B theta^beta + D r^T", names, value, starts, told)


LAWS = {
    "power": (_power(1), _power(-1)),
    "geometric": (_geometric(1), _geometric(-1)),
    "surface": (_surface(),),
}


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law fitted to a series.

    Fields: `parameters` and their 95 % `intervals` by name; `r2` of the log errors; `held_out`, the
    mean absolute log error on the points of largest x of a fit to the others, with `covered`, the
    share of them in that fit's 95 % band (NaN where there are too few points); `points` fitted and
    `dropped` because their error is 0, negative or not finite.
    """

    name: str
    law: str
    formula: str
    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    r2: float
    held_out: float
    covered: float
    points: int
    dropped: int
    _law: Law = dataclasses.field(repr=False)
    _scales: dict[str, float] = dataclasses.field(repr=False)
    _free: Float[Array, " p"] = dataclasses.field(repr=False)
    _resampled: Float[Array, "resamples p"] = dataclasses.field(repr=False)

    def predict(self, **columns: Float[Array, " points"]) -> Float[Array, " points"]:
        """The error at these values of what it depends on."""
        return self._law.value(self._free, _floats(columns), self._scales)

    def band(self, **columns: Float[Array, " points"]) -> Float[Array, "2 points"]:
        """The 95 % band of the error, low and high."""
        columns = _floats(columns)
        every = [self._law.value(free, columns, self._scales) for free in self._resampled]
        return np.percentile(every, [2.5, 97.5], axis=0)

    def to_dict(self) -> dict:
        """For JSON; NaN becomes None."""
        public = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not field.name.startswith("_")
        }
        for name in ("r2", "held_out", "covered"):
            public[name] = None if np.isnan(public[name]) else round(public[name], 6)
        return public


def _floats(columns: Mapping[str, Any]) -> dict[str, Float[Array, " points"]]:
    return {name: np.asarray(column, float) for name, column in columns.items()}


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
    error = series.error[fine][order]
    repeats = None if series.repeats is None else series.repeats[fine][order]
    parameters = len(LAWS[law][0].names)
    if len(error) < parameters + 2:
        raise FitError(
            f"{series.name}: {len(error)} points with an error > 0 are too few for the "
            f"{parameters} parameters of the law {law}; needs {parameters + 2}"
        )
    rng = np.random.default_rng(seed)
    form, scales, free = _best(law, error, columns)
    resampled = _bootstrap(form, scales, free, error, columns, repeats, rng)
    told = np.array([form.told(f, scales) for f in resampled])
    low, high = np.percentile(told, [2.5, 97.5], axis=0)
    log = np.log(error)
    left = log - np.log(form.value(free, columns, scales))
    spread = ((log - log.mean()) ** 2).sum()
    held_out, covered = _beyond(law, error, columns, repeats, rng)
    values = form.told(free, scales)
    return Fit(
        name=series.name,
        law=law,
        formula=form.formula,
        parameters=dict(zip(form.names, map(float, values), strict=True)),
        intervals={
            name: (float(a), float(b)) for name, a, b in zip(form.names, low, high, strict=True)
        },
        r2=float(1 - (left**2).sum() / spread) if spread > 0 else np.nan,
        held_out=held_out,
        covered=covered,
        points=len(error),
        dropped=int((~fine).sum()),
        _law=form,
        _scales=scales,
        _free=free,
        _resampled=resampled,
    )


def better(series: Series, laws: tuple[str, ...] = ("power", "geometric"), seed: int = 0) -> Fit:
    """Of fits of several laws the one with the smallest held-out error, or else the largest R²."""
    fits = [fit(series, law, seed) for law in laws]
    if all(np.isfinite(f.held_out) for f in fits):
        return min(fits, key=lambda f: f.held_out)
    return max(fits, key=lambda f: f.r2)


def _check(series: Series, law: str) -> None:
    if law not in LAWS:
        raise FitError(f"no law {law!r}; choices: {', '.join(LAWS)}")
    wanted = 3 if law == "surface" else 1
    if len(series.columns) != wanted:
        raise FitError(
            f"{series.name}: the law {law} takes {wanted} columns, "
            f"not {', '.join(series.columns) or 'none'}"
        )
    first, column = next(iter(series.columns.items()))
    if law != "geometric" and not np.all(np.asarray(column) > 0):
        raise FitError(f"{series.name}: {first} must be > 0 for the law {law}")


def _best(law: str, error: Array, columns: Columns) -> tuple[Law, dict[str, float], Array]:
    """The form of the law, the scales of its columns and the free parameters that fit best."""
    scales = {name: _scale(column) for name, column in columns.items()}
    found = []
    for form in LAWS[law]:
        for start in form.starts(error, columns):
            found.append((*_descend(form, scales, start, error, columns), form))
    _, free, form = min(found, key=lambda one: one[0])
    # Now that the scatter is known outliers can be told from it.
    scatter = _scatter(form, scales, free, error, columns)
    _, free = _descend(form, scales, free, error, columns, scatter)
    return form, scales, free


def _scale(column: Array) -> float:
    return float(column[column > 0].min()) if (column > 0).any() else 1.0


def _scatter(form: Law, scales, free, error: Array, columns: Columns) -> float:
    left = np.log(error) - np.log(form.value(free, columns, scales))
    return max(OUTLIER * 1.4826 * np.median(np.abs(left - np.median(left))), SMALLEST)


def _descend(
    form: Law, scales, start, error: Array, columns: Columns, scatter: float = 0.1
) -> tuple[float, Array]:
    log = np.log(error)

    def left(free):
        with np.errstate(all="ignore"):
            value = np.log(np.maximum(form.value(free, columns, scales), 1e-300)) - log
        return np.clip(np.nan_to_num(value, nan=1e3, posinf=1e3, neginf=-1e3), -1e3, 1e3)

    bounds = (-40.0, 40.0)
    start = np.clip(start, -39, 39)
    found = least_squares(left, start, bounds=bounds, loss="soft_l1", f_scale=scatter, max_nfev=400)
    return found.cost, found.x


def _bootstrap(
    form: Law, scales, free, error: Array, columns: Columns, repeats: Array | None, rng
) -> Float[Array, "resamples p"]:
    scatter = _scatter(form, scales, free, error, columns)
    value = form.value(free, columns, scales)
    left = np.log(error) - np.log(value)
    # Fitting p parameters shortens residuals.
    left = (left - left.mean()) * np.sqrt(len(error) / max(len(error) - len(free), 1))
    by_trajectory = repeats is not None and repeats.shape[1] > 1 and np.ptp(repeats, axis=1).any()
    found = []
    for _ in range(RESAMPLES):
        if by_trajectory:
            # The same trajectories everywhere: grid points share their draws.
            again = np.nanmean(repeats[:, rng.integers(repeats.shape[1], size=repeats.shape[1])], 1)
        else:
            again = value * np.exp(rng.choice(left, len(left)))
        fine = np.isfinite(again) & (again > 0)
        part = {name: column[fine] for name, column in columns.items()}
        found.append(_descend(form, scales, free, again[fine], part, scatter)[1])
    return np.array(found)


def _beyond(
    law: str, error: Array, columns: Columns, repeats: Array | None, rng
) -> tuple[float, float]:
    """Mean absolute log error, and cover, on points beyond those fitted; NaN if there are few."""
    x = next(iter(columns.values()))
    values = np.unique(x)
    held = max(1, round(HELD_OUT * len(values)))
    inside = x < values[-held]
    if inside.sum() < len(LAWS[law][0].names) + 1 or len(np.unique(x[inside])) < 3:
        return np.nan, np.nan
    near = {name: column[inside] for name, column in columns.items()}
    far = {name: column[~inside] for name, column in columns.items()}
    form, scales, free = _best(law, error[inside], near)
    part = None if repeats is None else repeats[inside]
    resampled = _bootstrap(form, scales, free, error[inside], near, part, rng)
    wrong = np.log(form.value(free, far, scales)) - np.log(error[~inside])
    every = [form.value(f, far, scales) for f in resampled]
    low, high = np.percentile(every, [2.5, 97.5], axis=0)
    covered = (low <= error[~inside]) & (error[~inside] <= high)
    return float(np.abs(wrong).mean()), float(covered.mean())
