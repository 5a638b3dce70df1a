"""Does a simulation say what the packer does, and does its advice hold when it is followed?"""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import treepack as tp
from treepack import errors
from treepack.packing import mixture_sft
from treepack.packing.simulation import simulate

STREAM = mixture_sft.generate("sft", 4_000)
POOLS = (8, 48)
FOUND = simulate(STREAM, mixture_sft.BUDGETS, pool_sizes=POOLS, ranks=(4, 1_000_000), seed=3)


def advice(found, kind):
    return next((each for each in found.advice if each.kind == kind), None)


def replay(columns, budgets, pool_size, order):
    """The packs of a stream in this order, by the packer itself."""
    packer = tp.Packer(budgets, pool_size)
    packs = []
    for place in order:
        pack = packer.push(int(place), {name: int(columns[name][place]) for name in budgets})
        packs += [pack] if pack else []
    return packs, packer.flush()


@pytest.mark.parametrize("place", range(len(POOLS)))
def test_the_numbers_are_those_of_the_packer(place):
    outcome, columns = FOUND.outcomes[place], STREAM.columns
    order = np.random.default_rng(3).permutation(4_000)
    packs, last = replay(columns, mixture_sft.BUDGETS, POOLS[place], order)
    every = packs + last
    waits = [wait for pack in every for wait in pack.waits]
    assert outcome.rows == len(every)
    assert outcome.packs_per_million == pytest.approx(1e6 * len(every) / 4_000)
    assert outcome.over_bound == pytest.approx(len(every) / STREAM.bound)
    assert (outcome.wait_max, outcome.wait_mean) == (max(waits), pytest.approx(np.mean(waits)))
    assert outcome.wait_p99 == sorted(waits)[int(np.ceil(0.99 * (len(waits) - 1)))]
    for name, budget in mixture_sft.BUDGETS.items():
        filled = sum(pack.cost[name] for pack in every) / (len(every) * budget)
        assert outcome.fill[name] == pytest.approx(filled)
    assert outcome.branches_a_row == pytest.approx(STREAM.branches.sum() / len(every))
    cost = np.array([sum(weight_of(columns, key) for key in pack.keys) for pack in packs])
    steps = cost[: len(cost) // 4 * 4].reshape(-1, 4)
    assert outcome.imbalance[4] == pytest.approx((steps.max(1) / steps.mean(1) - 1).mean())
    assert outcome.imbalance[1_000_000] is None


def weight_of(columns, key):
    """Milliseconds of one example, spelt out."""
    tokens, crops, branches, vision = (int(column[key]) for column in columns.values())
    said = tokens - vision
    pairs = vision * vision + vision * said + said * said / (2 * branches)
    return 0.044 * tokens + 4.0 * crops + 7.3e-6 * pairs


def test_what_waits_in_the_pool_is_counted_before_each_pack_leaves():
    found = simulate({"tokens": [1, 2, 4, 8]}, {"tokens": 16}, pool_sizes=[4], sample=None)
    # Four arrive, fill the pool, and leave together.
    assert found.outcomes[0].resident == {"tokens": 15}
    assert found.outcomes[0].resident_max == {"tokens": 15}
    found = simulate({"tokens": [16] * 6}, {"tokens": 16}, pool_sizes=[2], sample=None)
    # Two wait before each pack leaves, but for the last.
    assert found.outcomes[0].resident == {"tokens": (5 * 32 + 16) / 6}
    assert found.outcomes[0].resident_max == {"tokens": 32}


def test_measured_pairs_take_the_place_of_the_estimate():
    columns = {"tokens": np.full(200, 8), "pairs": np.tile([0, 10**9], 100)}
    found = simulate(columns, {"tokens": 8}, pool_sizes=[1], ranks=[2])
    even = simulate({"tokens": columns["tokens"]}, {"tokens": 8}, pool_sizes=[1], ranks=[2])
    assert even.outcomes[0].imbalance[2] == pytest.approx(0)
    assert found.outcomes[0].imbalance[2] > 0.3


def test_following_the_advice_fills_the_other_budget():
    told = advice(FOUND, "raise")
    assert told.numbers["budget"] == advice(FOUND, "binding").numbers["budget"] == "crops"
    assert 144 <= told.numbers["to"] <= 160
    budgets = {**mixture_sft.BUDGETS, "crops": told.numbers["to"]}
    followed = simulate(STREAM, budgets, pool_sizes=[48])
    before, after = FOUND.outcomes[1], followed.outcomes[0]
    gain = after.examples_a_row / before.examples_a_row - 1
    assert gain == pytest.approx(told.numbers["gain"], abs=0.005)
    assert gain > 0.1
    assert after.fill["tokens"] > 0.97
    assert advice(followed, "raise") is None


def test_an_idle_budget_may_be_lowered_without_losing_rows():
    rng = np.random.default_rng(0)
    columns = {"tokens": rng.integers(50, 500, 2_000), "crops": rng.integers(1, 8, 2_000)}
    found = simulate(columns, {"tokens": 16_384, "crops": 64}, pool_sizes=[48])
    told = advice(found, "lower")
    lowered = {"tokens": told.numbers["to"], "crops": 64}
    assert lowered["tokens"] < 8_192
    followed = simulate(columns, lowered, pool_sizes=[48])
    assert followed.outcomes[0].rows <= 1.02 * found.outcomes[0].rows
    assert followed.oversize == 0
    # In the mixture, rows leave tokens free, but its largest examples need all of them.
    assert advice(FOUND, "lower").numbers["largest"] > advice(FOUND, "lower").numbers["to"]


def test_what_does_not_fit_or_has_no_costs_is_counted_and_named():
    columns = {"tokens": [5, 90, 7, 40, -1, 3], "crops": [0, 0, 9, 0, 1, -1]}
    found = simulate(columns, {"tokens": 32, "crops": 8}, pool_sizes=[2])
    assert (found.examples, found.oversize, found.unmeasured) == (6, 3, 2)
    told = advice(found, "oversize").numbers
    assert told["largest"] == [1, 3, 2]
    assert told["by_budget"] == {"tokens": 2, "crops": 1}
    assert told["needed"] == {"tokens": 90, "crops": 9}
    assert advice(found, "unmeasured").numbers["count"] == 2


def test_a_sample_says_how_far_it_may_be_off():
    whole = simulate(STREAM, mixture_sft.BUDGETS, pool_sizes=[48], sample=None)
    part = simulate(STREAM, mixture_sft.BUDGETS, pool_sizes=[48], sample=1_000)
    assert (whole.sampling_error, part.simulated) == (0, 1_000)
    assert part.outcomes[0].rows == pytest.approx(whole.outcomes[0].rows, rel=0.1)
    off = part.outcomes[0].packs_per_million / whole.outcomes[0].packs_per_million - 1
    assert 0.01 < part.sampling_error < 0.1
    # Its last packs are less full, too: there are a thousand examples.
    assert abs(off) < part.sampling_error + 0.02
    assert f"within {part.sampling_error:.1%}" in str(part)
    assert "within" not in str(whole).split("\n\n")[0]


def test_few_examples_are_packed_several_times():
    rng = np.random.default_rng(0)
    columns = {"tokens": rng.integers(100, 900, 50)}
    once = simulate(columns, {"tokens": 4_096}, pool_sizes=[48], sample=None, ranks=[4])
    found = simulate(columns, {"tokens": 4_096}, pool_sizes=[48], ranks=[4])
    assert (once.simulated, found.simulated) == (50, 2_000)
    # The last row, half empty, is one of eight if each example is packed once.
    assert found.outcomes[0].fill["tokens"] > 0.98 > once.outcomes[0].fill["tokens"]
    assert found.outcomes[0].rows in (once.outcomes[0].rows, once.outcomes[0].rows - 1)
    assert "packed 40 times" in str(found)
    assert "times" not in str(once)


def test_the_smallest_pool_that_is_enough_is_named():
    found = simulate(STREAM, mixture_sft.BUDGETS, pool_sizes=(2, 32, 48))
    by_size = {outcome.pool_size: outcome for outcome in found.outcomes}
    told = advice(found, "pool").numbers["pool_size"]
    assert told in (32, 48)
    rows = {size: outcome.packs_per_million for size, outcome in by_size.items()}
    assert rows[told] <= 1.002 * min(rows.values())
    assert rows[2] > 1.002 * rows[told]


def test_several_sets_of_budgets_stand_side_by_side():
    sets = [{"tokens": 16_384, "crops": crops} for crops in (128, 256)]
    found = simulate(STREAM, sets, pool_sizes=POOLS)
    assert [outcome.budgets for outcome in found.outcomes] == [sets[0]] * 2 + [sets[1]] * 2
    assert "crops=256" in str(found)


def test_one_budget_has_no_frontier():
    found = simulate({"tokens": [5] * 100}, {"tokens": 32})
    assert not found.frontier
    assert {each.kind for each in found.advice} == {"binding", "pool", "ranks"}


def test_the_report_fits_80_columns_and_the_dict_is_json():
    assert max(map(len, str(FOUND).splitlines())) <= 80
    read = json.loads(json.dumps(FOUND.to_dict()))
    assert read["advice"][0]["text"] in str(FOUND).replace("\n  ", " ")
    assert sum(read["histograms"]["crops"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("costs", "budgets", "kind", "says"),
    [
        ({"tokens": [1]}, {"crops": 2}, errors.BudgetError, r"\['crops'\]; the columns are"),
        ({"tokens": [9]}, {"tokens": 2}, errors.CostError, "no example fits"),
        ({}, {"tokens": 2}, errors.CostError, "CostTable"),
        ([1, 2], {"tokens": 2}, errors.CostError, "are a list"),
        ({"tokens": [1.5]}, {"tokens": 2}, errors.CostError, "got float64"),
        ({"tokens": []}, {"tokens": 2}, errors.CostError, "length above 0"),
        ({"tokens": [1], "a": [1, 2]}, {"tokens": 2}, errors.CostError, "of one length"),
        ({"tokens": [1]}, {"tokens": 0}, errors.BudgetError, "tokens"),
    ],
)
def test_what_makes_no_sense_is_rejected(costs, budgets, kind, says):
    with pytest.raises(kind, match=says):
        simulate(costs, budgets)


@pytest.mark.parametrize("options", [{"sample": 0}, {"ranks": [4, 0]}, {"sample": 1.5}])
def test_numbers_below_one_are_rejected(options):
    with pytest.raises(errors.CostError, match="must be an integer of 1 or more"):
        simulate({"tokens": [1]}, {"tokens": 2}, **options)


def test_the_mixture_is_the_one_that_every_figure_was_measured_on():
    digests = {
        name: zlib.crc32(np.stack(mixture_sft.generate(name, 2_000, 3)[:2]).tobytes())
        for name in mixture_sft.MIXTURES
    }
    assert digests == {"sft": 3858629366, "image": 2354792309, "video": 624689324}
