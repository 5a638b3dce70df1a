"""Laws of packing a whole table: budgets, windows, every example once, the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from helpers import cases
from treepack._reference.offline import pack_table
from treepack.packing import mixture_sft as streams


def random_table(rng, oversize=False):
    """Budgets of every size; many small examples, some of which need a budget for themselves."""
    sizes = [int(rng.choice([3, 20, 128, 16_384, 1 << 31])) for _ in range(rng.integers(1, 4))]
    budgets = {f"budget{d}": size for d, size in enumerate(sizes)}
    n = int(rng.integers(0, 120))
    # Of the small ones a row holds so many that the pool is larger than 48.
    scale = rng.choice([1, 1, 0.3, 0.1])
    columns = {}
    for name, size in budgets.items():
        column = (scale * rng.beta(0.7, 3, n) * size).astype(np.int64)
        if oversize:
            column[rng.random(n) < 0.05] = size + 1
        columns[name] = column
    columns["budget0"] = np.maximum(columns["budget0"], 1)
    return budgets, columns


def random_settings(rng):
    order = str(rng.choice(["shuffled", "kept"]))
    window = int(rng.integers(1, 70)) if rng.random() < 0.6 else None
    return {
        "order": order,
        "window": window,
        "seed": int(rng.integers(2**32)),
        "early": rng.random() < 0.5,
    }


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_every_example_is_in_one_pack_and_every_pack_within_its_budgets(effort):
    for rng in cases.cases(200, f"offline {effort}"):
        budgets, columns = random_table(rng, oversize=True)
        n = len(columns["budget0"])
        settings = random_settings(rng)
        policy = str(rng.choice(["drop", "alone"]))
        packs = tp.pack(columns, budgets, effort=effort, oversize=policy, **settings)
        over = np.zeros(n, bool)
        for name, budget in budgets.items():
            over |= columns[name] > budget
        expected = np.arange(n) if policy == "alone" else np.flatnonzero(~over)
        assert sorted(packs.members.tolist()) == expected.tolist()
        for members in packs:
            alone = len(members) == 1 and over[members[0]]
            assert alone or not over[members].any()
            assert alone or all(columns[name][members].sum() <= budgets[name] for name in budgets)
            if settings["order"] == "shuffled" and settings["window"]:
                assert len({member // settings["window"] for member in members.tolist()}) == 1
            else:
                assert settings["order"] == "shuffled" or (np.diff(members) > 0).all()
        check_statistics(packs, columns, over, policy)


def check_statistics(packs, columns, over, policy):
    found = packs.statistics
    budgets = packs.settings["budgets"]
    assert found["dropped" if policy == "drop" else "alone"] == over.sum()
    assert found["alone" if policy == "drop" else "dropped"] == 0
    assert found["rows"] == len(packs) - found["alone"]
    sums = {name: int(columns[name][~over].sum()) for name in budgets}
    bound = max(sums[name] / budgets[name] for name in budgets)
    assert found["rows_per_bound"] == pytest.approx(found["rows"] / bound if bound else 1)
    for name in budgets:
        assert 0 <= found["fill"][name] <= 1
        assert found["fill"][name] * found["rows"] * budgets[name] == pytest.approx(sums[name])


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_the_same_seed_gives_the_same_packs_and_another_one_others(effort):
    stream = streams.generate("sft", 400, 3)
    columns = {"tokens": stream.tokens, "crops": stream.crops}
    one, same, other = (
        tp.pack(columns, streams.BUDGETS, effort=effort, seed=seed) for seed in (7, 7, 8)
    )
    assert (one.members == same.members).all()
    assert (one.offsets == same.offsets).all()
    assert one.members.tolist() != other.members.tolist()


def test_a_table_is_packed_as_by_the_reference():
    for rng in cases.cases(150, "offline reference"):
        budgets, columns = random_table(rng)
        n = len(columns["budget0"])
        settings = random_settings(rng)
        packs = tp.pack(columns, budgets, **settings)
        rows = [{name: int(columns[name][i]) for name in budgets} for i in range(n)]
        settings["window"] = settings["window"] or (
            48 if settings["order"] == "kept" else max(n, 1)
        )
        assert [members.tolist() for members in packs] == pack_table(rows, budgets, **settings)


@pytest.mark.parametrize("mixture", streams.MIXTURES)
def test_rows_are_no_more_than_those_of_a_stream_and_repacking_saves_some(mixture):
    streamed = fast = best = 0
    for seed in range(2):
        stream = streams.generate(mixture, 5_000, seed)
        columns = {"tokens": stream.tokens, "crops": stream.crops}
        packer = tp.Packer(streams.BUDGETS, early=True)
        packs = [packer.push(key, cost) for key, cost in enumerate(stream.costs())]
        streamed += sum(pack is not None for pack in packs) + len(packer.flush())
        fast += len(tp.pack(columns, streams.BUDGETS))
        best += len(tp.pack(columns, streams.BUDGETS, effort="best"))
    assert best <= fast <= streamed * 1.001
    assert mixture == "image" or best < streamed


@pytest.mark.parametrize("crops", [0, 2])
def test_rows_of_many_small_examples_are_full_too(crops):
    rng = np.random.default_rng(4)
    n = 3_000
    columns = {"tokens": rng.lognormal(6.3, 1.0, n).clip(1, 32_768).astype(np.int64)}
    budgets = {"tokens": 32_768}
    if crops:
        columns["crops"] = rng.integers(0, crops + 1, n)
        budgets["crops"] = 64
    packs = tp.pack(columns, budgets)
    assert n / len(packs) > 25
    assert len(packs) <= np.ceil(packs.statistics["rows"] / packs.statistics["rows_per_bound"]) + 1


def test_with_one_budget_packs_go_early_only_if_asked():
    stream = streams.generate("sft", 2_000, 3)
    columns = {"tokens": stream.tokens, "crops": stream.crops}

    def members(names, **options):
        costs = {name: columns[name] for name in names}
        found = tp.pack(costs, {name: streams.BUDGETS[name] for name in names}, **options)
        assert found.settings["early"] is options.get("early", len(names) > 1)
        return found.members.tolist()

    assert members(["tokens"]) == members(["tokens"], early=False)
    assert members(["tokens"]) != members(["tokens"], early=True)
    assert members(columns) == members(columns, early=True)
    assert members(columns) != members(columns, early=False)
