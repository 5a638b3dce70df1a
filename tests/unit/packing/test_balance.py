"""Packs of a step are dealt so that ranks finish together; each is dealt once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import treepack as tp
from helpers.cases import cases
from treepack.errors import BudgetError
from treepack.packing.balance import Balance, arrange, deal


def random_costs(rng, n):
    return np.round(rng.lognormal(10, 0.8, n)).astype(np.int64)


def kept(i, _):
    return i


def waits(costs, balance):
    """What all steps take, ``costs`` in the order dealt, ``[steps, accumulate, ranks]``."""
    if balance.sync == "step":
        return costs.sum(1).max(1).sum()
    return costs.max(2).sum()


def random_balance(rng):
    return Balance(
        accumulate=int(rng.integers(1, 5)),
        window=int(rng.integers(1, 5)),
        sync=str(rng.choice(["step", "micro"])),
    )


def test_every_pack_is_dealt_once_and_steps_take_no_longer_than_in_the_order_given():
    for rng in cases(300, "deal"):
        balance, ranks = random_balance(rng), int(rng.integers(1, 9))
        shape = (balance.window, balance.accumulate, ranks)
        costs = random_costs(rng, int(np.prod(shape)))
        order = deal(costs, ranks, balance, kept)
        assert sorted(order) == list(range(len(costs)))
        assert waits(costs[order].reshape(shape), balance) <= waits(costs.reshape(shape), balance)


def test_steps_hold_the_same_packs_whatever_ranks_and_micro_batches_make_of_them():
    for rng in cases(50, "steps of a window"):
        costs, ways = random_costs(rng, 48), [(2, 4), (8, 1), (4, 2), (1, 8)]
        steps = [
            [set(step) for step in np.array(deal(costs, ranks, Balance(m, 6), kept)).reshape(6, 8)]
            for ranks, m in ways
        ]
        assert all(other == steps[0] for other in steps)


def test_dealing_is_nearly_as_good_as_the_best_of_all_ways():
    ours = best = 0
    for rng in cases(60, "best deal"):
        costs = random_costs(rng, 6)
        order = deal(costs, 2, Balance(accumulate=3), kept)
        found = waits(costs[order].reshape(1, 3, 2), Balance(3))
        ways = itertools.combinations(range(6), 3)
        least = min(max(costs[list(w)].sum(), costs.sum() - costs[list(w)].sum()) for w in ways)
        assert found <= 1.2 * least
        ours, best = ours + found, best + least
    assert ours <= 1.01 * best


def test_packs_of_one_micro_batch_are_neighbours_by_cost():
    costs = np.arange(24)[::-1].copy()
    order = deal(costs, 3, Balance(accumulate=2, window=4, sync="micro"), kept)
    spans = np.ptp(costs[order].reshape(-1, 3), axis=1)
    assert (spans == 2).all()


@pytest.mark.parametrize(("n", "ranks"), [(100, 3), (24, 2), (5, 4), (2, 4)])
def test_a_window_holds_its_packs_once_and_those_that_fill_no_step_at_the_end(n, ranks):
    costs = random_costs(np.random.default_rng(n), n)
    order = arrange(costs, ranks, Balance(accumulate=2, window=3), 7, 0)
    whole = n // (2 * ranks) * 2 * ranks
    assert sorted(order[:whole]) == list(range(whole))
    assert order[whole:] == list(range(whole, n))


def test_the_order_of_steps_is_drawn_and_no_rank_is_always_the_heaviest():
    costs = np.sort(random_costs(np.random.default_rng(3), 400))
    windows = (costs[start : start + 20] for start in range(0, 400, 20))
    dealt = [
        window[arrange(window, 4, Balance(window=5), 1, 20 * number)]
        for number, window in enumerate(windows)
    ]
    steps = np.concatenate(dealt).reshape(-1, 4)
    heavy = steps.sum(1).reshape(-1, 5).argmax(1)
    assert len(set(heavy.tolist())) > 2
    assert len(set(steps.argmax(1).tolist())) == 4


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"accumulate": 0}, "accumulate of Balance"),
        ({"window": 1.5}, "window of Balance"),
        ({"sync": "never"}, "sync of Balance"),
    ],
)
def test_settings_that_make_no_sense_are_rejected(wrong, told):
    with pytest.raises(BudgetError, match=told):
        tp.Balance(**wrong)
