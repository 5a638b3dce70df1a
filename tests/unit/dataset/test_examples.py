"""Examples on their way into a row: costs before selection, trees after it, errors with names."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from helpers.tree_sources import BUDGETS, MeasuredTrees, Trees
from treepack import errors
from treepack.dataset.shards.examples import Arrival, CostMismatchError, Examples, failed


def tree(n=3, **options):
    return tp.MessageTree([1] * n, **{"costs": {"crops": 2}, **options})


def examples(source=None, **options):
    settings = {"budgets": BUDGETS, **options}
    return Examples(tp.PackedDataset(Trees(9) if source is None else source, **settings).settings)


def test_an_example_is_called_by_its_key_its_index_or_its_position():
    assert Arrival(7, 3, tree(key="mine")).name == "mine"
    assert Arrival(7, 3, tree(key=0)).name == 0
    assert Arrival(7, 3, tree()).name == 3
    assert Arrival(7, 0, None).name == 0
    assert Arrival(7, None, {}).name == 7


def test_a_tree_waits_in_the_pool_as_it_goes_into_the_row():
    calls = []

    def transform(one):
        calls.append(one.key)
        return tree(5, key=one.key)

    made = examples(transform=transform)
    arrival, cost = made.measure(Arrival(7, 3, tree()))
    assert cost == {"tokens": 5, "crops": 2}
    assert (arrival.position, arrival.index, arrival.item.key) == (7, 3, 3)
    assert made.load(arrival, cost) is arrival.item
    assert calls == [3]


def test_the_input_is_not_modified_and_a_key_of_its_own_stays():
    made, given = examples(), tree()
    arrival, _ = made.measure(Arrival(7, 3, given))
    assert (given.key, arrival.item.key) == (None, 3)
    named = tree(key="mine")
    assert made.measure(Arrival(7, 3, named))[0].item is named


def test_what_measures_is_loaded_once_it_is_selected():
    made = examples(MeasuredTrees(9))
    arrival, cost = made.measure(Arrival(7, 3, None))
    assert arrival.item is None
    assert cost == {name: made.source.measure(3)[name] for name in BUDGETS}
    assert list(cost) == list(BUDGETS)
    assert made.load(arrival, cost).key == "example 3"


def test_costs_are_plain_numbers_of_the_budgets_alone():
    class Measured(MeasuredTrees):
        def measure(self, index):
            return {"crops": np.int32(2), "tokens": np.int64(4), "other": 9}

    _, cost = examples(Measured(9)).measure(Arrival(0, 0, None))
    assert cost == {"tokens": 4, "crops": 2}
    assert {type(value) for value in cost.values()} == {int}
    _, cost = examples(budgets={"tokens": 9, "frames": 2}).measure(Arrival(0, 0, tree()))
    assert cost == {"tokens": 3}


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        ({"tokens": 4, "crops": 2}, r"example 3 was measured with 4 tokens and has 3 now.*requeue"),
        ({"tokens": 3, "crops": 1}, r"measured with 1 crops and has 2 now"),
    ],
)
def test_a_tree_that_costs_other_than_measured_is_an_error_with_the_truth(measured, says):
    made = examples()
    with pytest.raises(CostMismatchError, match=says) as caught:
        made.load(Arrival(7, 3, tree()), measured)
    assert caught.value.cost == {"tokens": 3, "crops": 2}
    assert caught.value.item.n_tokens == 3
    # A cost that the tree does not know of is the measured one.
    assert made.load(Arrival(7, 3, tree()), {"tokens": 3, "frames": 5}).n_tokens == 3
    assert (CostMismatchError("text").item, CostMismatchError("text").cost) == (None, {})


def test_errors_name_the_example_and_what_was_done():
    class Broken(MeasuredTrees):
        def measure(self, index):
            raise KeyError("tokens")

        def load(self, index):
            raise OSError("no disk")

    made = examples(Broken(9))
    with pytest.raises(errors.DataError, match="example 3: measuring it failed: KeyError: 'tokens"):
        made.measure(Arrival(7, 3, None))
    with pytest.raises(errors.DataError, match="example 3: loading it failed: OSError: no disk"):
        made.load(Arrival(7, 3, None), {})
    wrong = examples(transform=lambda one: None)
    with pytest.raises(errors.DatasetError, match=r"example 'a'.*transform gave a NoneType"):
        wrong.measure(Arrival(7, 3, tree(key="a")))
    with pytest.raises(errors.DatasetError, match=r"example 3.*gave a int; pass processor="):
        examples().measure(Arrival(7, 3, 5))


def test_an_error_of_our_own_keeps_its_kind_and_is_not_named_twice():
    named = errors.TreeError("example 3: too long")
    assert failed("reading", 3, named) is named
    other = failed("reading", 4, named)
    assert type(other) is errors.TreeError
    assert str(other) == "example 4: reading it failed: TreeError: example 3: too long"
    assert type(failed("reading", 4, OSError("x"))) is errors.DataError


def test_a_mask_that_no_row_could_have_falls_on_its_example():
    runs = [[0, 1, 0], [1, 2, 1], [2, 3, 0], [3, 4, 1]]
    tangled = tree(4, image_runs=runs)
    made = examples(bidirectional="within_image")
    with pytest.raises(errors.TreeError, match="example 3"):
        made.measure(Arrival(7, 3, tangled))
    examples().measure(Arrival(7, 3, tangled))
    with pytest.raises(errors.TreepackError, match="example 3"):
        examples().measure(Arrival(7, 3, tp.MessageTree([], children=[tree(costs=None)])))


def test_records_are_read_and_need_a_family():
    record = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    with pytest.raises(errors.DatasetError, match=r"gave a Conversations; pass processor="):
        examples().measure(Arrival(7, 3, record))
    with pytest.raises(errors.TreepackError, match=r"example 3.*record 3"):
        examples().measure(Arrival(7, 3, {"nothing": 1}))
