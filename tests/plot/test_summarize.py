"""Figures and the table of made-up summaries' results, read back from matplotlib's own objects."""

import io

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from synthjax.io import results as files
from synthjax.io.workdir import WorkdirError
from synthjax.plot import summarize as plot
from synthjax.summarize import Spec, dataset

pytestmark = pytest.mark.slow

RATES = (0.125, 0.25, 0.5)
SPECS = {
    "alone": Spec(generations=2),
    "first only": Spec(generations=0),
    "one rate": Spec(sweep={"rate": (0.5,)}),
    "verifiers": Spec(generations=3, sweep={"verifier": ("random", "oracle", "self")}),
    "rates": Spec(generations=2, sweep={"rate": RATES}),
    "rates, turned": Spec(sweep={"verifier": ("random", "oracle"), "rate": RATES[::-1]}),
    "seeds": Spec(generations=2, sweep={"seed": (0, 1, 2)}),
    "all": Spec(sweep={"verifier": ("random", "oracle"), "rate": RATES, "seed": (0, 1)}),
    "many": Spec(sweep={"n": tuple(range(100, 120))}),
}
BY_RATE = ("rates", "rates, turned", "all")


def grid(spec):
    return [len(values) for values in spec.sweep.values()]


def level(i, t, metric=0):
    """ROUGE of element i, generation t: every number in a figure says what it is of."""
    return 0.1 + 0.01 * i + 0.05 * t + 0.002 * metric


def made_up(spec: Spec, missing=()):
    """Results, with those (element, generation) left out that are `missing`."""
    records = []
    for i in range(int(np.prod(grid(spec)))):
        records.append([])
        for t in range(spec.generations + 1):
            rouge = np.array([level(i, t, metric) for metric in range(3)])
            record = {"rouge": rouge, "rouge_low": rouge - 0.01, "rouge_high": rouge + 0.02}
            record |= {"entropy": np.asarray(5 + i + t), "words": np.asarray(10.0 + i + t)}
            if t:
                record |= {"kept": np.asarray(0.25 * t), "p_hat": np.array([0.6, 0.7, 0.8])}
                record |= {"p_star_hat": np.array([0.5, 0.4, 0.3])}
            record = {} if (i, t) in missing else record
            records[-1].append({**record, "status": np.asarray(0)})
    return dataset.to_dataset(spec, records)


def drawn(axis):
    """Lines with markers: label -> (x, y)."""
    return {
        line.get_label(): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
        for line in axis.lines
        if line.get_marker() == "o"
    }


def bands(axis):
    """Lowest and highest of each band at its x: [(x, low, high)]."""
    found = []
    for band in axis.collections:
        at = band.get_paths()[0].vertices
        x = np.unique(at[:, 0])
        ends = [[pick(at[at[:, 0] == one, 1]) for one in x] for pick in (np.min, np.max)]
        found.append((x, *map(np.array, ends)))
    return found


def test_by_generation():
    """A panel for each ROUGE, entropy and length; a line for each verifier, with its interval."""
    figure = plot.by_generation(made_up(SPECS["verifiers"]))
    t = np.arange(4)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:3] == ["ROUGE-1", "ROUGE-2", "ROUGE-L"]
    assert "entropy" in titles[3] and "words" in titles[4] and len(titles) == 5
    for at, axis in enumerate(figure.axes):
        lines = list(drawn(axis).values())
        assert len(lines) == 3
        for i, (x, y) in enumerate(lines):
            expected = level(i, t, at) if at < 3 else {3: 5, 4: 10}[at] + i + t
            np.testing.assert_array_equal(x, t)
            np.testing.assert_allclose(y, expected)
        assert len(bands(axis)) == (3 if at < 3 else 0)
        for i, (_, low, high) in enumerate(bands(axis)):
            np.testing.assert_allclose([low, high], np.add.outer([-0.01, 0.02], level(i, t, at)))
    assert list(drawn(figure.axes[0])) == ["random", "oracle", "self"]
    assert figure.get_suptitle() == "Summaries by generation\ngenerations=3"


def test_seeds_are_one_line():
    """Their mean, in the range of the three; a single one is a line of its own interval."""
    figure = plot.by_generation(made_up(SPECS["seeds"]))
    for at, axis in enumerate(figure.axes):
        ((_, y),) = drawn(axis).values()
        expected = level(1, np.arange(3), at) if at < 3 else {3: 5, 4: 10}[at] + 1 + np.arange(3)
        np.testing.assert_allclose(y, expected)
    ((_, low, high),) = bands(figure.axes[0])
    np.testing.assert_allclose([low, high], [level(i, np.arange(3)) for i in (0, 2)])
    one = plot.by_generation(made_up(Spec(sweep={"seed": (7,)})))
    ((_, low, high),) = bands(one.axes[0])
    np.testing.assert_allclose([low, high], np.add.outer([-0.01, 0.02], level(0, np.arange(2))))


def test_by_rate():
    """After the last generation, over the mean of all first generators; seeds together."""
    figure = plot.by_rate(made_up(SPECS["all"]))
    assert [axis.get_title() for axis in figure.axes] == ["ROUGE-1", "ROUGE-2", "ROUGE-L"]
    for at, axis in enumerate(figure.axes):
        lines = drawn(axis)
        assert list(lines) == ["random", "oracle"]
        # Elements count through seed, verifier and rate.
        for verifier, (x, y) in enumerate(lines.values()):
            np.testing.assert_array_equal(x, RATES)
            np.testing.assert_allclose(y, level(3 * verifier + np.arange(3) + 3, 1, at))
        (own,) = (line for line in axis.lines if line.get_linestyle() == "--")
        np.testing.assert_allclose(own.get_ydata(), level(5.5, 0, at))
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.125", "0.25", "0.5"]
    assert figure.axes[0].get_ylabel() == "after generation 1"


def test_rates_in_any_order_are_drawn_from_left_to_right():
    lines = drawn(plot.by_rate(made_up(SPECS["rates, turned"])).axes[0])
    for verifier, (x, y) in enumerate(lines.values()):
        np.testing.assert_array_equal(x, RATES)
        np.testing.assert_allclose(y, level(3 * verifier + np.arange(3)[::-1], 1))


def test_rates_alone():
    ((label, (_, y)),) = drawn(plot.by_rate(made_up(SPECS["rates"])).axes[2]).items()
    assert label == "generation"
    np.testing.assert_allclose(y, level(np.arange(3), 2, 2))


MISSING = {(1, 1), (1, 2), (1, 3), (2, 0)}


def test_what_is_missing_is_a_gap():
    """A run whose training failed, and one that lost its beginning: the others are as they were."""
    results = made_up(SPECS["verifiers"], MISSING)
    lines = drawn(plot.by_generation(results).axes[0])
    for i, (_, y) in enumerate(lines.values()):
        expected = [np.nan if (i, t) in MISSING else level(i, t) for t in range(4)]
        np.testing.assert_allclose(y, expected)
    lines = drawn(plot.by_rate(made_up(SPECS["rates"], {(1, 2)})).axes[0])
    np.testing.assert_allclose(lines["generation"][1], [level(0, 2), np.nan, level(2, 2)])
    # Of two seeds one is enough.
    lines = drawn(plot.by_rate(made_up(SPECS["all"], {(0, 1)})).axes[0])
    np.testing.assert_allclose(lines["random"][1], level(np.array([6, 4, 5]), 1))


@pytest.mark.parametrize("name", SPECS)
def test_saved(tmp_path, name):
    """From results.nc as it is read back; figures of what there is to compare, and no others."""
    files.write(made_up(SPECS[name], {(0, 1)}), tmp_path / "results.nc")
    paths = plot.save(files.read(tmp_path / "results.nc"), tmp_path / "figures")
    expected = [] if name == "first only" else ["rouge"] + ["by_rate"] * (name in BY_RATE)
    assert [path.stem for path in paths] == expected
    for path in paths:
        assert matplotlib.image.imread(path).std() > 0.01


def test_no_more_lines_than_can_be_told_apart():
    results = made_up(SPECS["many"])
    assert len(drawn(plot.by_generation(results).axes[0])) == plot.MOST_LINES == 12
    assert len(plot.elements(results, most=None)) == 20


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(WorkdirError, match="the numbers are safe"):
        plot.save(made_up(SPECS["alone"]), tmp_path / "figures")


def printed(results):
    console = Console(file=io.StringIO(), width=200)
    console.print(plot.summary(results))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("name", SPECS)
def test_table(name):
    """A row for each element, seeds together, before and after."""
    spec = SPECS[name]
    header, *rows = printed(made_up(spec))
    assert len(rows) == np.prod([len(v) for name, v in spec.sweep.items() if name != "seed"])
    assert ("kept" in header) == ("→" in rows[0]) == (spec.generations > 0)
    if name == "verifiers":
        last = " ".join(rows[1].split())
        assert last.startswith("oracle 0.1100 → 0.2600 0.1120 → 0.2620 0.1140 → 0.2640 ")
        assert last.endswith(" 11.0 → 14.0 0.250 0.600 0.500")
    if name == "seeds":
        assert "0.1100 → 0.2100" in rows[0] and rows[0].startswith("random ")
    if name == "rates":
        assert rows[2].startswith("rate = 0.5 ")


def test_the_table_tells_p_of_the_verifiers_metric():
    (_, row) = printed(made_up(Spec(verifier="oracle", verifier_metric="rougeL")))
    assert row.split()[-3:] == ["0.250", "0.800", "0.300"]
    _, *rows = printed(made_up(SPECS["verifiers"], MISSING))
    assert "0.1100 → nan" in rows[1] and "nan → 0.2700" in rows[2]
