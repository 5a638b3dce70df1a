"""What the packer accepts, rejects and says."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import treepack as tp
from treepack import errors

BUDGETS = {"tokens": 100, "crops": 8}


def make(**options):
    return tp.Packer(BUDGETS, **{"pool_size": 3, **options})


def test_the_best_pair_goes_and_the_rest_is_flushed():
    packer = make()
    assert packer.push("a", {"tokens": 60, "crops": 2}) is None
    assert packer.push("b", {"tokens": 70, "crops": 1}) is None
    pack = packer.push("c", {"tokens": 40, "crops": 6})
    assert (pack.keys, pack.cost, pack.waits) == (["a", "c"], {"tokens": 100, "crops": 8}, [0, 0])
    assert not pack.is_oversize
    assert len(pack) == 2
    assert [p.keys for p in packer.flush()] == [["b"]]
    assert packer.pop() is None
    assert packer.flush() == []


@pytest.mark.parametrize(
    "one", [np.int32(1), np.int64(1), np.uint8(1), 1], ids=lambda one: type(one).__name__
)
def test_numpy_integers_are_costs(one):
    pack = make(pool_size=1).push("a", {"tokens": one, "crops": one})
    assert pack.cost == {"tokens": 1, "crops": 1}


def test_keys_may_be_anything_and_may_repeat():
    key = object()
    packer = make(pool_size=2)
    packer.push(key, {"tokens": 1, "crops": 0})
    pack = packer.push(key, {"tokens": 1, "crops": 0})
    assert pack.keys == [key, key]


@pytest.mark.parametrize(
    ("cost", "error", "says"),
    [
        ({"tokens": -1, "crops": 1}, errors.CostError, ["'k'", "-1", "tokens"]),
        ({"tokens": 1.5, "crops": 1}, errors.CostError, ["'k'", "1.5", "integer"]),
        ({"tokens": 1.0, "crops": 1}, errors.CostError, ["'k'", "1.0", "integer"]),
        ({"tokens": True, "crops": 1}, errors.CostError, ["'k'", "True"]),
        ({"tokens": "9", "crops": 1}, errors.CostError, ["'k'", "'9'"]),
        ({"tokens": 1 << 70, "crops": 1}, errors.CostError, ["'k'", str(1 << 70)]),
        ({"tokens": 0, "crops": 0}, errors.CostError, ["'k'", "tokens, crops", "positive"]),
        ({"tokens": 1}, errors.CostError, ["'k'", "'crops'"]),
        ({"tokens": 1, "crops": 1, "x": 1}, errors.CostError, ["'k'", "'x'", "crops"]),
        ([1, 1], errors.CostError, ["'k'", "[1, 1]", "dict"]),
        ({"tokens": 101, "crops": 1}, errors.OversizeError, ["'k'", "101", "100", "drop"]),
        ({"tokens": 1, "crops": 9}, errors.OversizeError, ["'k'", "9 crops", "8", "drop"]),
    ],
)
def test_a_bad_cost_is_named_and_leaves_the_packer_as_it_was(cost, error, says):
    packer = make()
    packer.push("good", {"tokens": 60, "crops": 2})
    before = packer.state()
    with pytest.raises(error) as caught:
        packer.push("k", cost)
    assert type(caught.value) is error
    assert isinstance(caught.value, ValueError)
    assert all(word in str(caught.value) for word in says), str(caught.value)
    assert packer.state() == before


@pytest.mark.parametrize(
    ("budgets", "options", "says"),
    [
        ({}, {}, ["at least one budget"]),
        ({"tokens": 0}, {}, ["'tokens'", "0"]),
        ({"tokens": -4}, {}, ["'tokens'", "-4"]),
        ({"tokens": 2.5}, {}, ["'tokens'", "2.5"]),
        ({"tokens": (1 << 31) + 1}, {}, ["tokens", "2147483649", "2147483648"]),
        ({3: 5}, {}, ["3", "string"]),
        (BUDGETS, {"pool_size": 0}, ["pool_size", "0", "32768"]),
        (BUDGETS, {"pool_size": -1}, ["pool_size", "-1"]),
        (BUDGETS, {"pool_size": 40_000}, ["pool_size", "40000", "32768"]),
        (BUDGETS, {"oversize": "ignore"}, ["oversize", "ignore", "alone"]),
        (BUDGETS, {"solver": "magic"}, ["solver", "magic", "first_fit"]),
        (BUDGETS, {"anchors": 0}, ["anchors", "0"]),
        (BUDGETS, {"steps": 0}, ["steps", "0"]),
    ],
)
def test_bad_budgets_and_settings_are_rejected(budgets, options, says):
    with pytest.raises(errors.BudgetError) as caught:
        tp.Packer(budgets, **options)
    assert all(word in str(caught.value) for word in says), str(caught.value)


def test_oversize_alone_goes_at_once_and_ages_nobody():
    packer = make(oversize="alone")
    packer.push("a", {"tokens": 60, "crops": 2})
    alone = packer.push("big", {"tokens": 1_000, "crops": 90})
    assert alone.is_oversize
    assert (alone.keys, alone.cost) == (["big"], {"tokens": 1_000, "crops": 90})
    assert "is_oversize=True" in repr(alone)
    packer.push("b", {"tokens": 60, "crops": 2})
    assert packer.push("c", {"tokens": 60, "crops": 2}).waits == [0]
    assert packer.counters == {"pushed": 4, "packs": 1, "dropped": 0, "alone": 1}


def test_oversize_drop_is_counted():
    packer = make(oversize="drop")
    assert packer.push("big", {"tokens": 1_000, "crops": 90}) is None
    assert len(packer) == 0
    assert packer.counters["dropped"] == 1


def test_early_lets_a_full_pack_go_before_the_pool_is_full():
    packer = make(pool_size=4, early=True)
    packer.push("a", {"tokens": 60, "crops": 2})
    packer.push("b", {"tokens": 30, "crops": 2})
    assert packer.push("c", {"tokens": 40, "crops": 2}).keys == ["a", "c"]


def broken_states():
    packer = make()
    packer.push("a", {"tokens": 60, "crops": 2})
    state = packer.state()
    yield {**state, "version": 99}, ["version 99"]
    yield {**state, "fingerprint": "x"}, ["another packer"]
    yield {k: v for k, v in state.items() if k != "keys"}, ["keys"]
    yield {**state, "keys": []}, ["0 keys", "1 arrivals"]
    yield {**state, "costs": [[1, 2, 3]]}, ["cost"]
    yield {**state, "costs": [[101, 2]]}, ["101", "100"]
    yield {**state, "arrivals": [5]}, ["arrived at pack 5"]
    yield {**state, "costs": [[-1, 2]]}, ["costs"]
    full = {"keys": [1, 2, 3], "arrivals": [0, 0, 0], "costs": [[1, 1]] * 3}
    yield {**state, **full}, ["3 examples"]
    yield "nonsense", ["version"]
    other = tp.Packer({"tokens": 100}, 3).state()
    yield other, ["another packer", "crops=8"]


@pytest.mark.parametrize(("state", "says"), list(broken_states()), ids=lambda value: None)
def test_a_bad_state_is_rejected_and_changes_nothing(state, says):
    packer = make()
    packer.push("b", {"tokens": 1, "crops": 1})
    before = packer.state()
    with pytest.raises(errors.StateError) as caught:
        packer.restore(state)
    assert all(word in str(caught.value) for word in says), str(caught.value)
    assert packer.state() == before


def test_the_state_is_small_and_json_safe():
    packer = tp.Packer({"tokens": 1 << 31, "crops": 1 << 20}, 48)
    for key in range(47):
        packer.push(key, {"tokens": (1 << 31) - key, "crops": (1 << 20) - key})
    text = json.dumps(packer.state())
    assert json.loads(text) == packer.state()
    assert len(text) <= 1024 + 64 * 48


def test_threads_may_each_have_a_packer():
    def work(results, seed):
        rng = np.random.default_rng(seed)
        packer = tp.Packer(BUDGETS, 8)
        costs = [{"tokens": int(c), "crops": 1} for c in rng.integers(1, 60, 200)]
        packs = [p for i, c in enumerate(costs) if (p := packer.push(i, c))] + packer.flush()
        results[seed] = sorted(key for pack in packs for key in pack.keys)

    results = {}
    threads = [threading.Thread(target=work, args=(results, seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {seed: list(range(200)) for seed in range(4)}
