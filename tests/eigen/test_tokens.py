"""Encodings, against C's `%.2e`, against FP15's rule in Python's decimals, and there and back."""

import math
from decimal import ROUND_FLOOR, Decimal

import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.eigen.tokens import ENCODINGS, decode, encode

EDGES = [0.0, -0.0, 1.0, 9.995, 99.95, 999.5, 0.9995, 9.985, 1e-9, 17.25, 1.005, 2.675, 123456.7]
TIES = {2.675}
EDGES += [-x for x in EDGES] + [10.0**e for e in range(-90, 90)]


def numbers(count, seed=0):
    """Of any size that all encodings write, and of the sizes that occur."""
    rng = np.random.default_rng(seed)
    wide = rng.choice([-1, 1], count // 2) * 10 ** rng.uniform(-7, 8.9, count // 2)
    return np.concatenate([wide, rng.uniform(-60, 60, count - count // 2)])


def by_printf(x, name):
    """The symbols of one number, from what C prints."""
    digits, power = f"{abs(x):.2e}".split("e")
    mantissa, exponent = digits.replace(".", ""), f"E{int(power) - 2}"
    if x == 0:
        mantissa, exponent = "000", "E0"
    sign = "-" if x < 0 else "+"
    if name == "P10":
        return [sign, *mantissa, exponent]
    if name == "P1000":
        return [sign, str(int(mantissa)), exponent]
    return [f"N{'-' * (x < 0)}{int(mantissa)}", exponent]


def by_decimals(x):
    """FP15's symbol of one number, by its rule in decimals of 50 digits and more."""
    v = abs(Decimal(x)) * 10**7
    e = max(0, v.adjusted()) if v else 0
    mantissa = int((v * Decimal(10) ** (2 - e) + Decimal("0.5")).to_integral_value(ROUND_FLOOR))
    if mantissa == 1000:
        mantissa, e = 100, e + 1
    if abs(x) > 1e9 or e >= 16:
        return "-NaN" if x < 0 else "NaN"
    return f"N{'-' * (x < 0 and mantissa > 0)}{mantissa}e{e}"


@pytest.mark.parametrize("name", ["P10", "P1000", "B1999"])
def test_digits_are_those_of_printf(name):
    x = np.concatenate([EDGES, numbers(10**6)])
    expected = [symbol for value in x.tolist() for symbol in by_printf(value, name)]
    assert encode(x, name) == expected


def test_fp15_keeps_to_its_rule():
    x = np.concatenate([EDGES, numbers(10**6), [1e9, -1e9, 1.1e9, -3e12, 9.996e8, 9.994e8, 5e-10]])
    expected = [by_decimals(value) for value in x.tolist()]
    found = encode(x, "FP15")
    for value, symbol, wanted in zip(x.tolist(), found, expected, strict=True):
        # In float64 v itself is rounded: what is a tie to 15 digits may fall to either side.
        assert symbol == wanted or abs(value) in TIES, (value, symbol, wanted)


def test_examples_of_the_formats():
    assert encode([9.92], "P10") == ["+", "9", "9", "2", "E-2"]
    assert encode([9.92], "P1000") == ["+", "992", "E-2"]
    assert encode([-9.92, 0], "B1999") == ["N-992", "E-2", "N0", "E0"]
    assert encode([-9.92, 0], "FP15") == ["N-992e7", "N0e0"]
    assert encode([17.25], "P1000") == ["+", "172", "E-1"]
    assert encode([17.25], "FP15") == ["N173e8"]
    assert encode([0], "P1000") == ["+", "0", "E0"]
    assert encode([2e9, -2e9], "FP15") == ["NaN", "-NaN"]
    assert decode(["NaN", "-NaN"], "FP15").tolist() == [1e9, -1e9]
    assert encode([1e-150, -1e-150], "P1000") == ["+", "0", "E0"] * 2  # too small to be written


@pytest.mark.parametrize("name", ENCODINGS)
def test_there_and_back(name):
    x = numbers(20_000, seed=1)
    back = decode(encode(x, name), name)
    resolution = 1e-9 if name == "FP15" else 0
    assert (np.abs(back - x) <= 0.00501 * np.abs(x) + resolution).all()
    assert encode(back, name) == encode(x, name)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_device_writes_what_the_host_writes(name):
    """In float32; of random numbers at most one in 10⁴ rounds the other way."""
    encoding = ENCODINGS[name](*((-9, 4) if name == "FP15" else (-8, 4)))
    x = np.random.default_rng(2).uniform(-60, 60, 10**6).astype(np.float32)
    x = np.concatenate([x, x * np.float32(1e-3), np.zeros(3, np.float32)])
    host = encoding.encode(x.astype(np.float64)).reshape(len(x), -1)
    device = np.asarray(encoding.encode(jnp.asarray(x))).reshape(len(x), -1)
    assert device.dtype == np.int32
    assert (host != device).any(1).mean() < 1e-4
    values, valid = encoding.decode(jnp.asarray(host))
    expected, _ = encoding.decode(host)
    assert valid.all()
    np.testing.assert_allclose(values.ravel(), expected.ravel(), rtol=3e-7)


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_symbol_is_there_once_and_means_itself(name):
    encoding = ENCODINGS[name]()
    assert len(set(encoding.symbols)) == len(encoding.symbols)
    ids = np.arange(len(encoding.symbols))
    if encoding.width == 1:
        values, valid = encoding.decode(ids[:, None])
        assert valid.sum() == len(ids) - 11  # all but PAD, BOS, EOS and eight sizes
        used = np.unique(encoding.encode(values[valid]))
        assert set(used) >= set(ids[13:][np.abs(values[13:, 0]) < 1e9]) - {
            encoding.symbols.index("N0e0")
        }


@pytest.mark.parametrize("name", ENCODINGS)
def test_what_is_no_number_is_marked(name):
    encoding = ENCODINGS[name]()
    rng = np.random.default_rng(3)
    ids = rng.integers(0, len(encoding.symbols), (5000, encoding.width))
    values, valid = encoding.decode(ids)
    assert np.isnan(values[~valid]).all() and np.isfinite(values[valid]).all()
    for row, (value,), (good,) in zip(ids, values, valid, strict=True):
        symbols = [encoding.symbols[i] for i in row]
        if good:
            assert decode(symbols, name).tolist() == [value]
        else:
            with pytest.raises(ValueError, match="is no number"):
                decode(symbols, name)


def test_refused():
    for call, words in (
        (lambda: encode([1.0], "P7"), "choices: P10, P1000, B1999, FP15"),
        (lambda: encode([math.nan], "P10"), "NaN has no symbols"),
        (lambda: encode([math.nan], "FP15"), "NaN has no symbols"),
        (lambda: encode([1e120], "P1000"), "1e.120 is out of range"),
        (lambda: encode([math.inf], "B1999"), "inf is out of range"),
        (lambda: encode([[1.0]], "P10"), "1-D"),
        (lambda: decode(["+", "x", "E0"], "P1000"), "'x' is no symbol"),
        (lambda: decode(["+", "1"], "P1000"), "takes 3"),
        (lambda: ENCODINGS["P10"](1, 5), "must include 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
