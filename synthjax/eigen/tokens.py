"""Numbers as symbols, three significant digits each, and back.

Sources: Charton, *Linear algebra with transformers* (TMLR 2022), for the encodings; the digits of
P10, P1000 and B1999 are those of C's `%.2e`, the ones of FP15 round half up. A number is

    P10     '+' '9' '9' '2' 'E-2'     sign, digits, exponent       992 · 10⁻²
    P1000   '+' '992' 'E-2'           sign, mantissa, exponent
    B1999   'N-992' 'E-2'             signed mantissa, exponent
    FP15    'N-992e7'                 one token                    −992 · 10⁷⁻⁹

A vocabulary holds PAD, BOS, EOS, the sizes V1 to V8 and, of an encoding, the exponents that can
occur. Host arrays are encoded exactly, device arrays in float32: of random numbers there, a few in
10⁵ round the other way.
"""

from functools import cache, cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

PAD, BOS, EOS = 0, 1, 2
SIZES = 8
_FIRST = 3 + SIZES  # of the symbols that make numbers
# What FP15 reads back where a number was too large for it.
TOO_LARGE = 1e9
_HUGE = 1000  # the mantissa that stands for it

Array = np.ndarray | jax.Array


class Parts(NamedTuple):
    """x = ±mantissa · 10^exponent; fields of one shape, the mantissa 0 or (but in FP15) ≥ 100."""

    negative: Bool[Array, "..."]
    mantissa: Int[Array, "..."]
    exponent: Int[Array, "..."]


class Encoding:
    """How numbers are written: the symbols, their ids and what they mean.

    `symbols` lists the vocabulary, a symbol's place is its id; `width` is the tokens of a number.
    """

    width: int

    def __init__(self, low: int = -100, high: int = 100):
        """Exponents from `low` ≤ 0 to `high` ≥ 0, of the mantissa's last digit, have a symbol."""
        if not low <= 0 <= high:
            raise ValueError(f"exponents {low} to {high} must include 0, with which 0 is written")
        self.low, self.high = low, high

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The vocabulary, in the order of the ids."""
        sizes = (f"V{i}" for i in range(1, SIZES + 1))
        return ("<pad>", "<s>", "</s>", *sizes, *self._numbers())

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, x: Float[Array, "... m"]) -> Int[Array, "... m*width"]:
        """Ids of numbers, int32; what is too small for the exponents is written as 0.

        Raises ValueError where a host number is NaN or too large. On a device the latter becomes
        the largest there is.
        """
        xp = _namespace(x)
        if xp is np and np.isnan(x).any():
            raise ValueError(f"NaN has no symbols in {type(self).__name__}")
        parts = self._parts(x)
        large = parts.exponent > self.high
        if xp is np and large.any():
            raise ValueError(
                f"{x[large].ravel()[0]:g} is out of range: {type(self).__name__} has exponents up "
                f"to {self.high}"
            )
        small = parts.exponent < self.low
        parts = Parts(
            parts.negative & ~small,
            xp.where(small, 0, xp.where(large, 999, parts.mantissa)),
            xp.where(small, 0, xp.minimum(parts.exponent, self.high)),
        )
        ids = xp.stack(self._to_ids(xp, parts), -1).astype(xp.int32)
        return ids.reshape(*x.shape[:-1], x.shape[-1] * self.width)

    def decode(
        self, ids: Int[Array, "... m*width"]
    ) -> tuple[Float[Array, "... m"], Bool[Array, "... m"]]:
        """Values, and which of them could be read; what could not is NaN."""
        xp = _namespace(ids)
        tokens = ids.reshape(*ids.shape[:-1], -1, self.width)
        value, valid = self._from_ids(xp, [tokens[..., i] for i in range(self.width)])
        return xp.where(valid, value, xp.nan), valid

    def _numbers(self):
        raise NotImplementedError

    def _parts(self, x) -> Parts:
        return _rounded(x) if _namespace(x) is np else _rounded_on_device(x)

    def _exponents(self):
        return (f"E{e}" for e in range(self.low, self.high + 1))


def _exponent_id(encoding: Encoding, exponent, first: int):
    return first + exponent - encoding.low


def _exponent_of(encoding: Encoding, token, first: int):
    e = token - first + encoding.low
    return e, (e >= encoding.low) & (e <= encoding.high)


class P10(Encoding):
    """Sign, three digits, exponent."""

    width = 5

    def _numbers(self):
        return ("+", "-", *map(str, range(10)), *self._exponents())

    def _to_ids(self, xp, parts):
        digits = (parts.mantissa // 100, parts.mantissa // 10 % 10, parts.mantissa % 10)
        return [
            _FIRST + parts.negative,
            *(_FIRST + 2 + digit for digit in digits),
            _exponent_id(self, parts.exponent, _FIRST + 12),
        ]

    def _from_ids(self, xp, tokens):
        sign, *digits = (token - _FIRST for token in tokens[:-1])
        digits = [digit - 2 for digit in digits]
        exponent, valid = _exponent_of(self, tokens[-1], _FIRST + 12)
        valid = valid & _within(sign, 0, 1)
        for digit in digits:
            valid = valid & _within(digit, 0, 9)
        mantissa = 100 * digits[0] + 10 * digits[1] + digits[2]
        return _value(xp, (1 - 2 * sign) * mantissa, exponent), valid


class P1000(Encoding):
    """Sign, mantissa, exponent."""

    width = 3

    def _numbers(self):
        return ("+", "-", *map(str, range(1000)), *self._exponents())

    def _to_ids(self, xp, parts):
        exponent = _exponent_id(self, parts.exponent, _FIRST + 1002)
        return [_FIRST + parts.negative, _FIRST + 2 + parts.mantissa, exponent]

    def _from_ids(self, xp, tokens):
        sign, mantissa = tokens[0] - _FIRST, tokens[1] - _FIRST - 2
        exponent, valid = _exponent_of(self, tokens[2], _FIRST + 1002)
        valid = valid & _within(sign, 0, 1) & _within(mantissa, 0, 999)
        return _value(xp, (1 - 2 * sign) * mantissa, exponent), valid


class B1999(Encoding):
    """Signed mantissa, exponent."""

    width = 2

    def _numbers(self):
        return (*(f"N{m}" for m in range(-999, 1000)), *self._exponents())

    def _to_ids(self, xp, parts):
        mantissa = xp.where(parts.negative, -parts.mantissa, parts.mantissa)
        exponent = _exponent_id(self, parts.exponent, _FIRST + 1999)
        return [_FIRST + 999 + mantissa, exponent]

    def _from_ids(self, xp, tokens):
        mantissa = tokens[0] - _FIRST - 999
        exponent, valid = _exponent_of(self, tokens[1], _FIRST + 1999)
        return _value(xp, mantissa, exponent), valid & _within(mantissa, -999, 999)


class FP15(Encoding):
    """One token: a signed mantissa with its exponent, or too large to have one."""

    width = 1

    def __init__(self, low: int = -9, high: int = 6):
        """Exponents as in the others; the symbols count them from −9, where all small ones are."""
        if low != -9:
            raise ValueError("FP15 begins at the exponent -9")
        super().__init__(low, high)

    def _numbers(self):
        yield from ("NaN", "-NaN")
        yield from (f"N{m}e0" for m in range(-999, 1000))
        for e in range(1, self.high + 10):
            for sign in ("", "-"):
                yield from (f"N{sign}{m}e{e}" for m in range(100, 1000))

    def _parts(self, x):
        xp = _namespace(x)
        v = xp.minimum(xp.abs(x), 2 * TOO_LARGE) * xp.asarray(1e7, x.dtype)
        e = xp.floor(xp.log10(xp.maximum(v, 1)))
        mantissa = xp.floor(v * xp.asarray(10.0, x.dtype) ** (2 - e) + 0.5)
        mantissa, e = xp.where(mantissa >= 1000, 100, mantissa), e + (mantissa >= 1000)
        mantissa = xp.where((xp.abs(x) > TOO_LARGE) | (e >= 16), _HUGE, mantissa)
        exponent = xp.where(mantissa == _HUGE, 0, e - 9).astype(xp.int32)
        return Parts((x < 0) & (mantissa > 0), mantissa.astype(xp.int32), exponent)

    def _to_ids(self, xp, parts):
        e = parts.exponent + 9
        signed = xp.where(parts.negative, -parts.mantissa, parts.mantissa)
        small = _FIRST + 2 + 999 + signed
        rest = _FIRST + 2 + 1999 + 1800 * (e - 1) + 900 * parts.negative + parts.mantissa - 100
        ids = xp.where(e > 0, rest, small)
        return [xp.where(parts.mantissa == _HUGE, _FIRST + parts.negative, ids)]

    def _from_ids(self, xp, tokens):
        token = tokens[0] - _FIRST
        small, rest = token - 2 - 999, token - 2 - 1999
        e = xp.where(rest >= 0, rest // 1800 + 1, 0)
        negative, mantissa = rest % 1800 >= 900, rest % 900 + 100
        signed = xp.where(rest >= 0, xp.where(negative, -mantissa, mantissa), small)
        value = _value(xp, signed, e - 9)
        value = xp.where(token < 2, xp.where(token == 1, -TOO_LARGE, TOO_LARGE), value)
        return value, _within(tokens[0], _FIRST, len(self.symbols) - 1)


ENCODINGS = {"P10": P10, "P1000": P1000, "B1999": B1999, "FP15": FP15}


def encode(values: Float[np.ndarray, " m"], name: str) -> list[str]:
    """The symbols of numbers, one after the other, in the encoding `name`.

    Raises ValueError: no such encoding, not a flat array, NaN, or too large or small to be written
    (FP15 writes what is too large as NaN).
    """
    encoding = _by_name(name)
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"values must be a 1-D array, not of shape {values.shape}")
    return [encoding.symbols[i] for i in encoding.encode(values)]


def decode(symbols: list[str], name: str) -> Float[np.ndarray, " m"]:
    """The numbers that `encode` wrote, to three digits, float64.

    Raises ValueError: no such encoding, or symbols that are no numbers in it.
    """
    encoding = _by_name(name)
    unknown = [symbol for symbol in symbols if symbol not in encoding._ids]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no symbol of {name}")
    if len(symbols) % encoding.width:
        raise ValueError(f"{len(symbols)} symbols: {name} takes {encoding.width} for a number")
    values, valid = encoding.decode(np.array([encoding._ids[s] for s in symbols], np.int32))
    if not valid.all():
        at = int(np.argmin(valid)) * encoding.width
        raise ValueError(f"{symbols[at : at + encoding.width]} is no number in {name}")
    return values


@cache
def _by_name(name: str) -> Encoding:
    if name not in ENCODINGS:
        raise ValueError(f"no encoding {name!r}; choices: {', '.join(ENCODINGS)}")
    return ENCODINGS[name]()


def _namespace(x):
    return jnp if isinstance(x, jax.Array) else np


def _within(x, low: int, high: int):
    return (x >= low) & (x <= high)


def _value(xp, mantissa, exponent):
    """mantissa · 10^exponent; on the host as exactly as the decimal number would be read."""
    if xp is np:
        over, under = (10.0 ** np.clip(by, 0, 300) for by in (exponent, -exponent))
        return np.where(exponent >= 0, mantissa * over, mantissa / under)
    return mantissa * jnp.float32(10) ** exponent


def _rounded(x: Float[np.ndarray, "..."]) -> Parts:
    """Of each number the three digits that `%.2e` prints, exactly."""
    x = np.asarray(x, np.float64)
    size = np.abs(x)
    where = size > 0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        e = np.where(where, np.floor(np.log10(np.where(where, size, 1))), 2).astype(np.int64)
        # In two steps: 10^(2 − e) alone may overflow.
        half = (2 - e) // 2
        scaled = size * 10.0**half * 10.0 ** (2 - e - half)
        mantissa = np.rint(scaled)
        # Too near to a tie, or to a power of ten, to trust a product that was rounded itself.
        unsure = (np.abs(scaled - np.floor(scaled) - 0.5) < 1e-9) & where
    unsure |= where & ~_within(scaled, 100 - 1e-9, 999.4)
    mantissa = np.where(where & np.isfinite(scaled), mantissa, 0).astype(np.int64)
    for at in np.argwhere(unsure & np.isfinite(x)):
        digits, power = f"{size[tuple(at)]:.2e}".split("e")
        mantissa[tuple(at)] = round(float(digits) * 100)
        e[tuple(at)] = int(power)
    return Parts(x < 0, mantissa, np.where(np.isinf(x), 10**6, e - 2))


def _rounded_on_device(x: Float[jax.Array, "..."]) -> Parts:
    size = jnp.abs(x)
    where = size > 0
    e = jnp.where(where, jnp.floor(jnp.log10(jnp.where(where, size, 1))), 2).astype(jnp.int32)

    def scaled(e):
        # By a power of ten that float32 holds exactly, and with one rounding, where |e − 2| ≤ 10.
        up = jnp.asarray(np.float32(10.0) ** np.arange(39, dtype=np.float32))
        return jnp.where(
            e < 2, size * up[jnp.clip(2 - e, 0, 38)], size / up[jnp.clip(e - 2, 0, 38)]
        )

    e += (scaled(e) >= 999.5).astype(jnp.int32) - (scaled(e) < 99.95).astype(jnp.int32) * where
    mantissa = jnp.where(where, jnp.rint(scaled(e)), 0).astype(jnp.int32)
    return Parts(x < 0, mantissa, e - 2)
