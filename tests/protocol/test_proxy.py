import itertools
import os

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest

from synthjax.protocol.proxy import SampleError, measure, rates, read_jsonl, report

NAMES = [
    name + suffix
    for name in ("p_hat", "phi_hat", "psi_hat", "p_star_hat")
    for suffix in ("", "_low", "_high")
]


def test_estimates_by_hand():
    found = rates(60, 40, 45, 10)
    assert list(found) == NAMES
    np.testing.assert_allclose(
        [found[name] for name in ("p_hat", "phi_hat", "psi_hat", "p_star_hat")],
        [0.4, 0.75, 0.25, 0.75],
        rtol=1e-14,
    )


@pytest.mark.parametrize("kept,total", [(0, 5), (5, 5), (1, 3), (45, 60), (17, 10**7)])
def test_wilson_agrees_with_scipy(kept, total):
    found = rates(total, 1, kept, 0)
    interval = binomtest(kept, total).proportion_ci(method="wilson")
    np.testing.assert_allclose(
        [found["phi_hat_low"], found["phi_hat_high"]], interval, rtol=1e-9, atol=1e-15
    )
    assert found["phi_hat_low"] > 0 or kept == 0  # exact at the ends
    assert found["phi_hat_high"] < 1 or kept == total


def _mover(phi, phi_low, psi, psi_high):
    """φ/(φ + ψ) where the upper limit of r·ψ meets the lower limit of φ, found by bisection."""

    def gap(share):
        r = share / (1 - share)
        return (phi - r * psi) - np.hypot(phi - phi_low, r * (psi_high - psi))

    return brentq(gap, 0, phi / (phi + psi) - 1e-12, xtol=1e-14)


@pytest.mark.parametrize(
    "counts", [(60, 40, 45, 10), (60, 40, 60, 1), (1000, 10, 3, 9), (7, 9, 6, 1), (50, 50, 1, 0)]
)
def test_p_star_limits_solve_the_mover_equation(counts):
    found = rates(*counts)
    phi, psi = (
        [float(found[f"{name}_hat{suffix}"]) for suffix in ("", "_low", "_high")]
        for name in ("phi", "psi")
    )
    low = _mover(phi[0], phi[1], psi[0], psi[2])
    high = 1 - _mover(psi[0], psi[1], phi[0], phi[2]) if psi[0] > 0 else 1
    np.testing.assert_allclose([found["p_star_hat_low"], found["p_star_hat_high"]], [low, high])


def test_extremes_are_finite_or_nan_and_quiet():
    counts = {
        "all kept": (6, 4, 6, 4),
        "oracle": (6, 4, 6, 0),
        "only wrong kept": (6, 4, 0, 4),
        "nothing kept": (6, 4, 0, 0),
        "nothing right": (0, 4, 0, 2),
        "nothing wrong": (6, 0, 3, 0),
        "nothing": (0, 0, 0, 0),
    }
    with np.errstate(all="raise"):
        found = rates(*np.array(list(counts.values())).T)
        one = {case: rates(*values) for case, values in counts.items()}
    for i, case in enumerate(counts):  # vectorised is the same as one by one
        for name in NAMES:
            np.testing.assert_array_equal(found[name][i], one[case][name], err_msg=f"{case} {name}")

    defined = {
        "all kept": {"p", "phi", "psi", "p_star"},
        "oracle": {"p", "phi", "psi", "p_star"},
        "only wrong kept": {"p", "phi", "psi", "p_star"},
        "nothing kept": {"p", "phi", "psi"},
        "nothing right": {"p", "psi"},
        "nothing wrong": {"p", "phi"},
        "nothing": set(),
    }
    for case, names in defined.items():
        for name in ("p", "phi", "psi", "p_star"):
            values = [one[case][f"{name}_hat{suffix}"] for suffix in ("", "_low", "_high")]
            if name in names:
                assert 0 <= values[1] <= values[0] <= values[2] <= 1, (case, name)
            else:
                assert np.isnan(values).all(), (case, name)
    assert one["all kept"]["p_star_hat"] == 0.5
    assert one["oracle"]["p_star_hat"] == one["oracle"]["p_star_hat_high"] == 1
    assert one["only wrong kept"]["p_star_hat"] == one["only wrong kept"]["p_star_hat_low"] == 0


def test_counts_broadcast_and_nan_stays_nan():
    found = rates(np.full((3, 1), 60), np.array([40, 20]), 45, np.array([np.nan, 10]))
    assert found["p_star_hat"].shape == (3, 2)
    assert found["p_star_hat"].dtype == np.float64
    np.testing.assert_array_equal(np.isnan(found["p_star_hat_low"]), [[True, False]] * 3)


@pytest.mark.parametrize("counts", [(6, 4, 7, 0), (6, 4, 0, 5), (6, 4, -1, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(SampleError, match=r"kept_(right|wrong) must lie between"):
        rates(*counts)


@pytest.mark.parametrize("n", [100, 1000])
def test_coverage(n):
    """Share of 20 000 samples whose interval holds the truth; nominal 0.95, standard error 0.002.

    Found with this seed (mean, minimum over the grid), n = 100 and 1000: p 0.938, 0.933 and 0.949,
    0.942; φ 0.959, 0.905 and 0.960, 0.936; ψ 0.967, 0.905 and 0.968, 0.937; p* 0.965, 0.905 and
    0.963, 0.942. The minima lie at φ or ψ = 0.01 or 0.99 among ten examples.
    """
    rng = np.random.default_rng(0)
    coverage = {"p": [], "phi": [], "psi": [], "p_star": []}
    ps, phis, psis = (0.1, 0.3, 0.5, 0.7, 0.9), (0.05, 0.3, 0.6, 0.9, 0.99, 1), (0, 0.01, 0.1, 0.5)
    for p, phi, psi in itertools.product(ps, phis, (*psis, 0.9, 1)):
        wrong = rng.binomial(n, p, 20_000)
        found = rates(n - wrong, wrong, rng.binomial(n - wrong, phi), rng.binomial(wrong, psi))
        truth = {"p": p, "phi": phi, "psi": psi, "p_star": phi / (phi + psi)}
        for name, value in truth.items():
            low, high = found[f"{name}_hat_low"], found[f"{name}_hat_high"]
            defined = ~np.isnan(low)
            coverage[name].append(((low <= value) & (value <= high))[defined].mean())
    for name, shares in coverage.items():
        assert 0.93 < np.mean(shares) < 0.98, name
        assert min(shares) > 0.90, name


def _sample(right, wrong, kept_right, kept_wrong):
    correct = np.arange(right + wrong) < right
    kept = np.r_[np.arange(right) < kept_right, np.arange(wrong) < kept_wrong]
    return correct, kept


def test_measure_counts_and_precision():
    counts = (60, 40, 45, 10)
    correct, kept = _sample(*counts)
    order = np.random.default_rng(1).permutation(100)
    found = measure(correct[order].reshape(20, 5), kept[order].reshape(20, 5).astype(int))
    assert [found[name] for name in ("right", "wrong", "kept_right", "kept_wrong")] == [*counts]
    assert {name: found[name] for name in NAMES} == rates(*counts)
    interval = binomtest(45, 55).proportion_ci(method="wilson")
    np.testing.assert_allclose(
        [found["precision"], found["precision_low"], found["precision_high"]], [45 / 55, *interval]
    )


@pytest.mark.parametrize(
    "counts,helps",
    [
        ((60, 40, 45, 10), "yes"),
        ((10, 90, 10, 0), "yes"),  # an oracle, from a bad generator
        ((42, 58, 42, 58), "undecided"),  # nothing verified: 0.42 of 100 reaches up to 0.518
        ((300, 700, 300, 700), "no"),
        ((60, 40, 1, 0), "undecided"),
    ],
)
def test_prediction(counts, helps):
    found = measure(*_sample(*counts))
    assert found["helps"] == helps
    if helps != "undecided":  # the same decision as p < p*
        assert (found["p_hat"] < found["p_star_hat"]) == (helps == "yes")
    sentence = {
        "yes": "predicted to help",
        "no": "predicted not to help",
        "undecided": "label more",
    }
    assert sentence[helps] in report(found)


@pytest.mark.parametrize(
    "correct,kept,said",
    [
        ([True, False], [True], "shape"),
        ([1, 2], [0, 1], "correct must be true or false"),
        ([1, 0], [0, np.nan], "kept must be true or false"),
    ],
)
def test_measure_refuses(correct, kept, said):
    with pytest.raises(SampleError, match=said):
        measure(np.array(correct), np.array(kept))


def test_report_says_that_nothing_was_kept():
    found = measure(*_sample(1200, 800, 0, 0))
    assert found["helps"] == "undecided"
    assert "Training on the selection is impossible: nothing was kept." in report(found)
    assert "label more" not in report(found)


def test_report_says_what_is_undefined():
    assert report(measure(*_sample(6, 0, 0, 0))).count("undefined") == 3  # ψ, p*, the precision


def test_read_jsonl(tmp_path):
    path = tmp_path / "sample.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"correct": true, "kept": 0}\r\n\n'  # a BOM, a blank line
        b'{"kept": 1, "correct": 1, "prompt": "\xc3\xa9"}\n'
        b'{"correct": false, "kept": true}'  # no line end
    )
    correct, kept = read_jsonl(path)
    assert correct.dtype == kept.dtype == bool
    assert correct.tolist() == [True, True, False]
    assert kept.tolist() == [False, True, True]


def test_read_jsonl_names_malformed_lines(tmp_path):
    good = '{"correct": true, "kept": false}'
    bad = [
        '{"correct": true}',
        '{"correct": "true", "kept": false}',
        '{"correct": 2, "kept": 1}',
        '{"correct": null, "kept": 1}',
        "[1, 1]",
        "{",
        "[" * 100_000,
        "é" * (1 << 20),  # too long, and cut inside a character
    ]
    for line in bad:
        path = tmp_path / "one.jsonl"
        path.write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8")
        with pytest.raises(SampleError, match=r"1 malformed of 3 lines \(line 2\)"):
            read_jsonl(path)
    path = tmp_path / "all.jsonl"
    path.write_text("\n".join([good, *bad]), encoding="utf-8")
    with pytest.raises(SampleError, match=r"8 malformed of 9 lines \(line 2, 3, 4, 5, 6, \.\.\.\)"):
        read_jsonl(path)


@pytest.mark.parametrize(
    "content,said",
    [(b"", "no examples"), (b"\n \n", "no examples"), (b"\x1f\x8b\x00\xff", "line 1 is not UTF-8")],
)
def test_read_jsonl_refuses_content(tmp_path, content, said):
    path = tmp_path / "sample.jsonl"
    path.write_bytes(content)
    with pytest.raises(SampleError, match=said):
        read_jsonl(path)


@pytest.mark.timeout(10)
def test_read_jsonl_refuses_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, said in (("fifo", "not a regular"), ("", "not a regular"), ("none", "No such file")):
        with pytest.raises(SampleError, match=said):
            read_jsonl(tmp_path / name)
