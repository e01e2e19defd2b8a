"""Figures and the table of made-up eigenvalue results, read back from matplotlib's own objects."""

import io

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from synthjax.eigen import Spec, dataset
from synthjax.eigen.measure import DECODINGS, TOLERANCES
from synthjax.io.workdir import WorkdirError
from synthjax.plot import eigen as plot

pytestmark = pytest.mark.slow

PSI = (0.0, 0.25, 0.5, 1.0)
SPECS = {
    "alone": Spec(generations=2),
    "verifiers": Spec(generations=3, sweep={"verifier": ("none", "oracle", "self")}),
    "psi": Spec(verifier="noisy", sweep={"psi": PSI}),
    "psi, regime": Spec(verifier="noisy", sweep={"regime": ("replace", "mix"), "psi": PSI}),
    "k_test": Spec(generations=0, sweep={"k_test": (1, 5, 50)}),
    "many": Spec(sweep={"seed": tuple(range(20))}),
}


def made_up(spec: Spec):
    """Accuracies that say which element, generation, tolerance and decoding they are of."""
    count = int(np.prod([len(values) for values in spec.sweep.values()]))
    records = []
    for i in range(count):
        records.append([])
        for t in range(spec.generations + 1):
            accuracy = np.add.outer(np.arange(len(TOLERANCES)), 0.1 * np.arange(len(DECODINGS)))
            accuracy = 0.1 + 0.01 * i + 0.05 * t + accuracy / 20
            record = {"accuracy": accuracy, "accuracy_low": accuracy - 0.01}
            record |= {"accuracy_high": accuracy + 0.02, "loss": np.asarray(1.0)}
            record |= {"status": np.asarray(0)}
            if t:
                record |= {"kept": np.asarray(0.25 * t), "p_hat": np.full(4, 0.6)}
                record |= {"p_star_hat": np.full(4, 0.8)}
            records[-1].append(record)
    return dataset.to_dataset(spec, records)


def drawn(axis):
    """Lines with markers: label -> (x, y)."""
    return {
        line.get_label(): (line.get_xdata().tolist(), np.round(line.get_ydata(), 9).tolist())
        for line in axis.lines
        if line.get_marker() == "o"
    }


def test_by_generation():
    results = made_up(SPECS["verifiers"])
    figure = plot.by_generation(results)
    assert [axis.get_title() for axis in figure.axes] == [f"τ = {tau:.1%}" for tau in TOLERANCES]
    for at, axis in enumerate(figure.axes):
        lines = drawn(axis)
        assert list(lines) == ["none", "oracle", "self"]
        for i, (x, y) in enumerate(lines.values()):
            assert x == [0, 1, 2, 3]
            np.testing.assert_allclose(y, 0.1 + 0.01 * i + 0.05 * np.arange(4) + at / 20)
    assert "generations=3" in figure.get_suptitle()


def test_by_k():
    figure = plot.by_k(made_up(SPECS["k_test"]))
    lines = drawn(figure.axes[2])
    assert list(lines) == list(DECODINGS)
    x, y = lines["oracle_of_k"]
    assert x == [1, 5, 50]
    np.testing.assert_allclose(y, 0.1 + 0.01 * np.arange(3) + 2.1 / 20)


def test_by_p_star():
    results = made_up(SPECS["psi"])
    figure = plot.by_p_star(results)
    ((label, (x, y)),) = drawn(figure.axes[0]).items()
    assert label == "generation 1"
    np.testing.assert_allclose(x, 1 / (1 + np.array(PSI)))
    np.testing.assert_allclose(y, 0.15 + 0.01 * np.arange(4))
    level = next(line for line in figure.axes[0].lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(level.get_ydata(), results.accuracy[:, 0, 0, 0].mean())
    both = made_up(Spec(verifier="noisy", sweep={"phi": (0.5, 1.0), "psi": PSI}))
    (x, _), _ = drawn(plot.by_p_star(both).axes[0]).values()
    np.testing.assert_allclose(x, 1 / (1 + np.array(PSI) / 0.5))
    lines = drawn(plot.by_p_star(made_up(SPECS["psi, regime"])).axes[0])
    assert list(lines) == ["regime = replace", "regime = mix"]


@pytest.mark.parametrize(
    "y, level, expected",
    [
        ([0.1, 0.2, 0.4], 0.3, 0.75),
        ([0.4, 0.2, 0.1], 0.3, np.nan),  # only falls through it
        ([0.1, 0.4, 0.1, 0.4], 0.25, 5 / 6),  # the last time
        ([0.3, 0.3, 0.3], 0.3, np.nan),
        ([0.2, 0.3], 0.3, 1.0),
    ],
)
@pytest.mark.parametrize("turn", [1, -1])
def test_crossing(y, level, expected, turn):
    x = np.linspace(0, 1, len(y))
    found = plot.crossing_of(x[::turn], np.array(y)[::turn], level)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("name", SPECS)
def test_saved(tmp_path, name):
    paths = plot.save(made_up(SPECS[name]), tmp_path / "figures")
    expected = {
        "k_test": ["by_k"],
        "psi": ["accuracy", "by_p_star"],
        "psi, regime": ["accuracy", "by_p_star"],
    }
    assert [path.stem for path in paths] == expected.get(name, ["accuracy"])
    for path in paths:
        assert matplotlib.image.imread(path).std() > 0.01


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(WorkdirError, match="the numbers are safe"):
        plot.save(made_up(SPECS["alone"]), tmp_path / "figures")


@pytest.mark.parametrize("name", SPECS)
def test_table(name):
    spec = SPECS[name]
    console = Console(file=io.StringIO(), width=200)
    console.print(plot.summary(made_up(spec)))
    header, *rows = console.file.getvalue().splitlines()
    assert len(rows) == int(np.prod([len(values) for values in spec.sweep.values()]))
    assert "0.5%" in header and ("kept" in header) == (spec.generations > 0)
    if name == "k_test":
        assert "0.100 / 0.105 / 0.110" in rows[0]
    assert ("→" in rows[0]) == (spec.generations > 0)
    if name == "verifiers":
        assert rows[1].split()[:2] == ["oracle", "0.110"]
        assert rows[1].split()[-3:] == ["0.250", "0.600", "0.800"]
