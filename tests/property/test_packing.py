"""Laws of the packer on random streams: budgets hold, none is lost, no example waits too long."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import treepack as tp
from helpers import cases
from treepack._reference.packing import ReferencePacker


def random_stream(rng, oversize=False, longest=60):
    """Budgets and costs of every proportion: tiny and huge budgets, dominant and equal items."""
    sizes = [int(rng.choice([3, 20, 128, 16_384, 1 << 31])) for _ in range(rng.integers(1, 6))]
    budgets = {f"budget{d}": size for d, size in enumerate(sizes)}
    costs = []
    for _ in range(int(rng.integers(1, longest))):
        scale = int(rng.integers(1, 9))
        cost = {name: int(rng.integers(0, size // scale + 2)) for name, size in budgets.items()}
        if not oversize or rng.random() < 0.9:
            cost = {name: min(c, budgets[name]) for name, c in cost.items()}
        if not any(cost.values()):
            cost["budget0"] = 1
        costs.append(cost)
    return budgets, costs


def random_settings(rng, smallest=1, largest=20):
    return {
        "pool_size": int(rng.integers(smallest, largest)),
        "early": bool(rng.random() < 0.3),
        "solver": str(rng.choice(["anchors", "anchors", "anchors", "first_fit"])),
        "anchors": int(rng.integers(1, 10)),
        "steps": int(rng.choice([1, 50, 4_000])),
        "gamma": int(rng.integers(0, 64)),
        "age": int(rng.integers(0, 64)),
    }


def run(packer, costs):
    packs = [packer.push(key, cost) for key, cost in enumerate(costs)]
    return [pack for pack in packs if pack is not None] + packer.flush()


@pytest.mark.parametrize("oversize", ["drop", "alone"])
def test_budgets_hold_nothing_is_lost_and_no_example_waits_too_long(oversize):
    for rng in cases.cases(700, f"laws {oversize}"):
        budgets, costs = random_stream(rng, oversize=True)
        settings = random_settings(rng)
        packer = tp.Packer(budgets, oversize=oversize, **settings)
        packs = run(packer, costs)
        too_large = {
            key for key, c in enumerate(costs) if any(c[name] > budgets[name] for name in budgets)
        }
        for pack in packs:
            total = {name: sum(costs[key][name] for key in pack.keys) for name in budgets}
            assert pack.cost == total
            assert pack.is_oversize == (not too_large.isdisjoint(pack.keys))
            assert pack.is_oversize or all(total[name] <= budgets[name] for name in budgets)
            assert len(pack.keys) == 1 or not pack.is_oversize
            assert pack.keys == sorted(pack.keys), "keys are in order of arrival"
            assert all(0 <= wait <= settings["pool_size"] - 1 for wait in pack.waits)
        gone = [key for pack in packs for key in pack.keys]
        expected = set(range(len(costs))) - (too_large if oversize == "drop" else set())
        assert sorted(gone) == sorted(expected)
        counters = packer.counters
        assert counters["pushed"] == len(costs)
        assert counters["dropped"] + counters["alone"] == len(too_large)
        assert counters["packs"] == sum(not pack.is_oversize for pack in packs)


def test_waits_count_the_packs_in_between():
    for rng in cases.cases(1000, "waits"):
        budgets, costs = random_stream(rng)
        packer = tp.Packer(budgets, **random_settings(rng))
        arrived, packs = {}, 0
        for key, cost in enumerate(costs):
            arrived[key] = packs
            pack = packer.push(key, cost)
            if pack is not None:
                assert pack.waits == [packs - arrived[k] for k in pack.keys]
                packs += 1


def test_a_full_pool_lets_exactly_one_pack_go_for_each_arrival():
    for rng in cases.cases(1000, "one pack"):
        budgets, costs = random_stream(rng)
        pool_size = int(rng.integers(1, 12))
        packer = tp.Packer(budgets, pool_size)
        for key, cost in enumerate(costs):
            held = len(packer)
            pack = packer.push(key, cost)
            assert (pack is not None) == (held + 1 == pool_size)
            assert len(packer) == held + 1 - (len(pack) if pack else 0)


def test_a_pack_leaves_out_nothing_that_would_still_fit():
    for rng in cases.cases(1000, "maximal"):
        budgets, costs = random_stream(rng)
        packer = tp.Packer(budgets, **random_settings(rng))
        for key, cost in enumerate(costs):
            pack = packer.push(key, cost)
            if pack is None:
                continue
            for left in packer.keys:
                total = {name: pack.cost[name] + costs[left][name] for name in budgets}
                assert any(total[name] > budgets[name] for name in budgets)


def test_the_core_packs_as_its_python_reference():
    for rng in cases.cases(1000, "reference"):
        budgets, costs = random_stream(rng)
        settings = random_settings(rng)
        core, reference = tp.Packer(budgets, **settings), ReferencePacker(budgets, **settings)
        for key, cost in enumerate(costs):
            pack = core.push(key, cost)
            assert (pack and pack.keys) == reference.push(key, cost)
        assert [pack.keys for pack in core.flush()] == list(reference.flush())


def test_a_larger_pool_packs_as_its_reference_and_keeps_every_law():
    """Behind the 48 oldest not every example is a candidate; budgets, waits and states hold on."""
    for rng in cases.cases(60, "larger pools"):
        budgets, costs = random_stream(rng, longest=250)
        settings = random_settings(rng, 40, 120) | {"steps": int(rng.choice([1, 50, 2_000]))}
        core, reference = tp.Packer(budgets, **settings), ReferencePacker(budgets, **settings)
        packs = []
        for key, cost in enumerate(costs):
            pack = core.push(key, cost)
            assert (pack and pack.keys) == reference.push(key, cost)
            if pack:
                packs.append(pack)
                for left in core.keys:
                    total = {name: pack.cost[name] + costs[left][name] for name in budgets}
                    assert any(total[name] > budgets[name] for name in budgets)
                core, saved = tp.Packer(budgets, **settings), core.state()
                core.restore(saved)
        flushed = core.flush()
        assert [pack.keys for pack in flushed] == list(reference.flush())
        packs += flushed
        assert sorted(key for pack in packs for key in pack.keys) == list(range(len(costs)))
        assert all(max(pack.waits) < settings["pool_size"] for pack in packs)
        assert all(pack.cost[name] <= budgets[name] for pack in packs for name in budgets)


def test_a_restored_packer_goes_on_as_if_nothing_had_happened():
    for rng in cases.cases(1000, "resume"):
        budgets, costs = random_stream(rng, oversize=True)
        settings = {**random_settings(rng), "oversize": str(rng.choice(["drop", "alone"]))}
        stop = int(rng.integers(0, len(costs) + 1))
        whole = tp.Packer(budgets, **settings)
        for key, cost in itertools.islice(enumerate(costs), stop):
            whole.push(key, cost)
        resumed = tp.Packer(budgets, **settings)
        resumed.restore(json.loads(json.dumps(whole.state())))
        for key, cost in enumerate(costs[stop:], stop):
            one, other = whole.push(key, cost), resumed.push(key, cost)
            assert repr(one) == repr(other)
        assert list(map(repr, whole.flush())) == list(map(repr, resumed.flush()))
        assert whole.counters == resumed.counters


def test_the_search_finds_the_best_pack_when_it_has_time():
    """One budget, exhaustive search, no premium: no subset with the oldest item is larger."""
    for rng in cases.cases(1000, "optimal"):
        size = int(rng.integers(8, 200))
        costs = rng.integers(1, size + 1, int(rng.integers(1, 9)))
        packer = tp.Packer({"tokens": size}, 100, gamma=0, age=0, steps=1 << 20)
        for key, cost in enumerate(costs):
            packer.push(key, {"tokens": int(cost)})
        pack = packer.pop()
        rest = costs[1:]
        subsets = np.array(list(itertools.product([0, 1], repeat=len(rest))))
        totals = costs[0] + subsets @ rest if len(rest) else costs[:1]
        assert pack.cost["tokens"] == totals[totals <= size].max()
