"""Training sets: which rows there are, in which order, and from which batch on."""

import itertools

import numpy as np
import pytest

from synthjax.protocol import training_set
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.training_set import TrainingSet

KEY = key(0, Stream.LEARN, 0, 1)


class Numbers:
    """Rows {"x": a number, "pair": two of it}."""

    def __init__(self, *values):
        self.values = np.array(values, np.int64)

    def __len__(self):
        return len(self.values)

    def rows(self, indices):
        x = self.values[indices]
        return {"x": x, "pair": np.stack([x, x], 1)}


A, B, C = Numbers(*range(10)), Numbers(*range(100, 103)), Numbers(*range(1000, 1007))


def all_of(data):
    return data.rows(np.arange(len(data)))["x"].tolist()


def test_rows_of_several_sources_in_any_order():
    data = TrainingSet((A, B, C))
    everything = [*A.values, *B.values, *C.values]
    assert len(data) == 20 and all_of(data) == everything
    order = np.random.default_rng(0).integers(0, 20, 50)
    found = data.rows(order)
    np.testing.assert_array_equal(found["x"], np.array(everything)[order])
    np.testing.assert_array_equal(found["pair"], np.array(everything)[order][:, None] * [1, 1])


@pytest.mark.parametrize(
    "regime, expected",
    [
        ("replace", [*B.values]),
        ("accumulate", [*A.values, *B.values]),
        ("mix", [*B.values, *C.values]),
    ],
)
def test_regimes(regime, expected):
    data = training_set.pool(REGIMES[regime].call, KEY, 5, B, [A], C)
    assert all_of(data) == expected


def test_subsample_takes_n_of_everything_without_replacement():
    regime = REGIMES["subsample"].call
    found = all_of(training_set.pool(regime, KEY, 5, B, [A], None))
    assert len(set(found)) == 5 and set(found) <= {*A.values, *B.values}
    assert len(all_of(training_set.pool(regime, KEY, 50, B, [A], None))) == 13
    # Every row equally often: 13 rows, 5 taken, 400 keys; chi-square of 12 degrees below 0.001.
    counts = np.zeros(13)
    for i in range(400):
        data = training_set.pool(regime, key(i, Stream.SUBSAMPLE, 0, 1), 5, B, [A], None)
        counts[data.chosen] += 1
    expected = 400 * 5 / 13
    assert ((counts - expected) ** 2 / expected / (1 - 5 / 13)).sum() < 32.9


def test_nothing_kept():
    assert len(training_set.pool(REGIMES["replace"].call, KEY, 5, None, [A], None)) == 0
    assert all_of(training_set.pool(REGIMES["mix"].call, KEY, 5, None, [A], C)) == [*C.values]


@pytest.mark.parametrize("size", [1, 3, 13, 30])
def test_every_epoch_holds_every_row_once(size):
    data, epochs = TrainingSet((A, B)), 7
    count = -(-13 * epochs // size)
    found = [
        batch["x"] for batch in training_set.batches(data, KEY, size, range(count), np.arange(size))
    ]
    assert {len(batch) for batch in found} == {size}
    seen = np.concatenate(found)[: 13 * epochs].reshape(epochs, 13)
    for epoch in seen:
        assert sorted(epoch) == [*A.values, *B.values]
    assert len({tuple(epoch) for epoch in seen}) == epochs  # each in an order of its own


def test_from_any_batch_on():
    data = TrainingSet((A, B))
    whole = [
        batch["x"].tolist() for batch in training_set.batches(data, KEY, 4, range(12), np.arange(4))
    ]
    for first in range(12):
        part = training_set.batches(data, KEY, 4, range(first, 12), np.arange(4))
        assert [batch["x"].tolist() for batch in part] == whole[first:]
    other = training_set.batches(data, key(1, Stream.LEARN, 0, 1), 4, range(12), np.arange(4))
    assert [batch["x"].tolist() for batch in other] != whole
    some = training_set.batches(data, KEY, 4, range(12), np.array([1, 3]))  # of another process
    assert [batch["x"].tolist() for batch in some] == [[b, d] for _, b, _, d in whole]


def test_a_row_that_cannot_be_made_is_an_error():
    class Broken(Numbers):
        def rows(self, indices):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(training_set.batches(TrainingSet((Broken(1),)), KEY, 1, range(2), np.arange(1)))
    begun = training_set.batches(TrainingSet((A,)), KEY, 2, range(10), np.arange(2))
    assert len(list(itertools.islice(begun, 2))) == 2
    begun.close()  # its thread ends with it


def test_groups_are_of_one_shape_and_hold_every_batch_once():
    data, room = TrainingSet((A, B)), training_set.at_once()
    whole = list(training_set.batches(data, KEY, 2, range(11), np.arange(2)))
    for sizes in ([room] * 11, [1] * 11, [*range(1, room + 1)] * 11):
        found = list(training_set.groups(iter(whole), sizes))
        assert {group.batches["pair"].shape for group in found} == {(room, 2, 2)}
        batches = [group.batches["x"][i] for group in found for i in range(group.count)]
        np.testing.assert_array_equal(batches, [batch["x"] for batch in whole])
    assert [group.count for group in training_set.groups(iter(whole), [room, 1])] == [room, 1]
