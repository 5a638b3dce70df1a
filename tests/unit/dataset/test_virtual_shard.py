"""One virtual shard: what an error leaves, what is counted, what is said in the log."""

from __future__ import annotations

import logging

import pytest
import treepack as tp
from helpers.simulated.workers import batches
from helpers.tree_sources import BUDGETS, MeasuredTrees, dataset, tree_of
from treepack import errors
from treepack.dataset.shards.base import BarrenSourceError, Streak
from treepack.dataset.state import shards_of
from treepack.testing import assert_batches_equal


class Failing(MeasuredTrees):
    """Examples that cannot be loaded, or cost other than measured, when their pack asks."""

    def __init__(self, n, broken=(), wrong=()):
        super().__init__(n)
        self.broken, self.wrong = broken, wrong

    def measure(self, index):
        cost = super().measure(index)
        return {**cost, "tokens": cost["tokens"] + 1} if index in self.wrong else cost

    def load(self, index):
        if index in self.broken:
            raise OSError(f"no file {index}")
        return super().load(index)


def stream(source, **options):
    return tp.PackedDataset(source, budgets=BUDGETS, **{"pool_size": 6, "seed": 1, **options})


def read(iterator):
    """Rows and errors, in order, until the end."""
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return
        except errors.TreepackError as error:
            yield str(error)


def test_rows_after_an_error_are_those_of_the_uninterrupted_stream_with_their_waits():
    broken = set(range(3, 60, 7))
    made = stream(Failing(60, broken), virtual_shards=2)
    rows = [row for row in read(iter(made)) if not isinstance(row, str)]
    again, resumed, waits = stream(Failing(60, broken), virtual_shards=2), [], 0
    iterator = iter(again)
    while (row := next(read(iterator), None)) is not None:
        if isinstance(row, str):
            state = again.state_dict()
            again = stream(Failing(60, broken), virtual_shards=2)
            again.load_state_dict(state)
            iterator = iter(again)
            continue
        resumed.append(row)
        waits += row["treepack"].stats["wait_max"] > 0
    assert waits > 3
    assert len(resumed) == len(rows)
    for one, other in zip(resumed, rows, strict=True):
        assert_batches_equal(one, other)


def test_an_example_that_costs_other_than_measured_is_pushed_again_before_new_ones():
    wrong = {4, 9, 30}
    made = stream(Failing(60, wrong=wrong), on_cost_mismatch="requeue")
    rows = list(made)
    keys = [key for row in rows for key in row["treepack"].keys]
    assert sorted(keys) == sorted(tree_of(index).key for index in range(60))
    assert all(row["treepack"].stats["tokens"] <= BUDGETS["tokens"] for row in rows)
    assert rows[-1]["treepack"].stats["skipped"] == 0
    # From every state, also while they wait to be pushed again.
    held = 0
    for n in range(len(rows)):
        other = stream(Failing(60, wrong=wrong), on_cost_mismatch="requeue")
        for _, _ in zip(range(n), other, strict=False):
            pass
        state = other.state_dict()
        held += any(entry[10] for entry in state["shards"])
        rest = list(batches(made, 0, state))
        assert len(rest) == len(rows) - n
        for one, row in zip(rest, rows[n:], strict=True):
            assert_batches_equal(one, row)
    assert held > 0
    with pytest.raises(errors.DataError, match="was measured with"):
        list(stream(Failing(60, wrong=wrong)))


def test_skipped_examples_are_logged_the_more_rarely_the_more_there_are(caplog):
    caplog.set_level(logging.WARNING, "treepack")
    made = stream(Failing(40, broken=range(20)), on_error="skip", virtual_shards=1)
    last = list(made)[-1]
    said = [record.getMessage() for record in caplog.records]
    counts = [int(text.rpartition("(")[2].split()[0]) for text in said]
    assert counts == [1, 2, 4, 8, 16]
    assert all("no file" in text and "in virtual shard 0" in text for text in said)
    assert made.state_dict()["shards"][0][4] == 20
    assert last["treepack"].stats["skipped"] <= 20


def test_the_numbers_of_a_row_are_those_of_its_shard():
    rows = list(dataset(n=40, virtual_shards=1))
    pools = [row["treepack"].stats["pool"] for row in rows]
    assert pools == [len(shards_of(row["treepack"].state)[0].keys) for row in rows]
    assert max(pools) > 0 == pools[-1]
    big = [tp.MessageTree([1] * n, costs={"crops": 0}) for n in (9, 80, 9, 90, 9)]
    dropped = list(stream(big, oversize="drop", shuffle=False, virtual_shards=1))
    assert dropped[-1]["treepack"].stats["dropped"] == 2
    alone = list(stream(big, oversize="alone", shuffle=False, virtual_shards=1))
    assert alone[-1]["treepack"].stats["alone"] == 2
    assert [row["treepack"].keys for row in alone if len(row["treepack"].keys) == 1] == [[1], [3]]


def test_an_endless_stream_gives_up_when_all_fails_and_not_before():
    streak = Streak(3)
    streak.add("one", 3)
    streak.end()
    streak.add("one")
    streak.add("two", 2)
    with pytest.raises(BarrenSourceError, match=r"4 examples in succession.*last: three"):
        streak.add("three")
    made = stream(Failing(9, broken=range(9)), on_error="skip", epochs=None)
    with pytest.raises(errors.DatasetError, match="1001 examples in succession"):
        next(iter(made))
    big = [tp.MessageTree([1] * 99, costs={"crops": 0})] * 4
    with pytest.raises(errors.DatasetError, match="over a budget, and dropped"):
        next(iter(stream(big, oversize="drop", epochs=None)))
    # One good example among many bad ones is enough.
    some = stream(Failing(900, broken=range(899)), on_error="skip", epochs=None)
    iterator = iter(some)
    assert [next(iterator)["treepack"].keys for _ in range(2)] == [["example 899"]] * 2
