"""Trees that are split by what is known of their branches: outlines, tables, packs made before."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import treepack as tp
from helpers import cases, tiny_models
from helpers.large_trees import BUDGETS, large_trees, trained
from helpers.tree_sources import SavedItems
from treepack import errors
from treepack.packing.splitting import expand
from treepack.sources.conversations import Conversations
from treepack.testing import assert_batches_equal, check_exactly_once, check_resume_everywhere

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def stream(source, **options):
    settings = {"budgets": BUDGETS, "pool_size": 5, "oversize": "split", "seed": 2, **options}
    return tp.PackedDataset(source, **settings)


class Noted(list):
    """Trees; it notes which are loaded."""

    def __init__(self, trees):
        super().__init__(trees)
        self.loaded = []

    def __getitem__(self, index):
        self.loaded.append(index)
        return super().__getitem__(index)


def over(tree):
    return any(tree.cost[name] > size for name, size in BUDGETS.items())


def measured(trees, **options):
    return tp.costs.measure(trees, workers=0, **options)


def test_a_table_splits_without_loading_and_as_the_trees_would_be():
    for rng in cases.cases(8, "split from a table"):
        trees = large_trees(rng, 30)
        table = measured(trees)
        assert [table.branches[i][0] for i in range(30)] == [
            tree.branch_lengths()[0] for tree in trees
        ]
        noted = Noted(trees)
        rows = list(stream(noted, costs=table))
        keys = [key for row in rows for key in row["treepack"].keys]
        # Each part once, and no tree to see how it is cut.
        assert [f"example {i}" for i in noted.loaded] == keys
        for row, other in zip(rows, stream(trees), strict=True):
            assert_batches_equal(row, other)


def test_a_table_without_lengths_looks_at_the_few_that_are_too_large():
    trees = large_trees(np.random.default_rng(2), 30)
    whole = measured(trees)
    bare = tp.costs.CostTable({name: whole.columns[name] for name in BUDGETS})
    noted = Noted(trees)
    rows = list(stream(noted, costs=bare))
    keys = [key for row in rows for key in row["treepack"].keys]
    assert len(noted.loaded) == len(keys) + len(large(trees))
    for row, other in zip(rows, stream(trees), strict=True):
        assert_batches_equal(row, other)


def large(trees):
    return {tree.key for tree in trees if over(tree)}


def test_the_lengths_survive_files_and_another_order(tmp_path):
    trees = large_trees(np.random.default_rng(3), 40)
    pytest.importorskip("pyarrow")
    table = measured(trees, out=tmp_path / "out.parquet")
    table.to_parquet(tmp_path / "again.parquet")
    here = measured(trees)
    order = np.random.default_rng(0).permutation(40)
    shuffled = tp.costs.CostTable(
        {name: column[order] for name, column in here.columns.items()},
        keys=order,
        branches=here.branches.take(order),
    )
    read = [tp.costs.from_parquet(tmp_path / f"{name}.parquet") for name in ("out", "again")]
    for other in (table, shuffled, *read):
        assert [other.branches[i] for i in range(40)] == [here.branches[i] for i in range(40)]
        assert other.names == here.names
    assert tp.costs.from_parquet(tmp_path / "out.parquet", ["tokens"]).branches is None
    with pytest.raises(errors.CostError, match="branches of 40 examples and costs of 1"):
        tp.costs.CostTable({"tokens": [1]}, branches=here.branches)
    for wrong in ([1, 2], [0, 3], [0, 2, 1, 2], []):
        with pytest.raises(errors.CostError, match="must rise from 0 to the 2 branches"):
            tp.costs.Branches(wrong, [4, 5])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_balanced_stream_splits_from_the_table_and_resumes(workers):
    trees = large_trees(np.random.default_rng(5), 40)
    table = measured(trees)
    options = {"costs": table, "balance": tp.Balance(2, 2)}
    packed = stream(trees, **options)
    check_exactly_once(packed, [tree.key for tree in trees], workers)
    check_resume_everywhere(packed, num_workers=workers, every=3)
    ranks = [list(stream(trees, shard=(rank, 2), **options)) for rank in range(2)]
    assert trained(itertools.chain(*ranks)) == trained([tp.collate([tree]) for tree in trees])
    bare = tp.costs.CostTable({name: table.columns[name] for name in BUDGETS})
    for wrong in ({"costs": bare}, {"transform": copy.copy}):
        with pytest.raises(errors.DatasetError, match="would load every large tree"):
            stream(trees, **{**options, **wrong})


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_packs_made_before_hold_parts(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    for rng in cases.cases(6, "packs of parts"):
        trees = large_trees(rng, 40)
        table = measured(trees)
        packs = tp.pack(table, BUDGETS, oversize="split", early=False)
        assert packs.statistics["split"] == len(large(trees)) > 0
        packs.save(tmp_path / f"packs.{suffix}")
        packs = tp.packing.Packs.load(tmp_path / f"packs.{suffix}")
        for balance in (None, tp.Balance(2)):
            given = tp.PackedDataset(trees, packs=packs, costs=table, balance=balance)
            rows = list(given)
            assert len(rows) == len(packs)
            assert trained(rows) == trained([tp.collate([tree]) for tree in trees])
            check_exactly_once(given, [tree.key for tree in trees])
            check_resume_everywhere(given, every=5)
    with pytest.raises(errors.DatasetError, match=r"pack with treepack.pack\(oversize="):
        stream(trees, packs=packs)


def test_what_cannot_be_split_is_packed_under_the_other_policy():
    children = [tp.MessageTree([2] * 33), tp.MessageTree([3] * 4)]
    trees = [
        tp.MessageTree([1] * 10, children=children, key="branch", costs={"crops": 1}),
        *large_trees(np.random.default_rng(1), 12),
    ]
    table = measured(trees)
    with pytest.raises(
        errors.OversizeError, match=r"example 0 .*root and branch 0 have 43.*split.*drop"
    ):
        tp.pack(table, BUDGETS, oversize="split")
    dropped = tp.pack(table, BUDGETS, oversize=("split", "drop"))
    alone = tp.pack(table, BUDGETS, oversize=("split", "alone"))
    assert (dropped.statistics["dropped"], alone.statistics["alone"]) == (1, 1)
    assert sorted({*alone.members.tolist()} - {*dropped.members.tolist()}) == [0]
    bare = tp.costs.CostTable({name: table.columns[name] for name in BUDGETS})
    for make in (tp.pack, tp.simulate):
        with pytest.raises(errors.CostError, match="no branch_tokens"):
            make(bare, BUDGETS, oversize="split")
    with pytest.raises(errors.BudgetError, match="oversize must be"):
        tp.simulate(table, BUDGETS, oversize="alone")


def test_a_simulation_packs_parts():
    trees = large_trees(np.random.default_rng(6), 300)
    table = measured(trees)
    found = tp.simulate(table, [BUDGETS, {**BUDGETS, "tokens": 60}], oversize="split", sample=None)
    left = tp.simulate(table, BUDGETS, sample=None)
    assert found.split == left.oversize == len(large(trees))
    assert (found.oversize, left.split) == (0, 0)
    expanded = expand(table.columns, table.branches, BUDGETS)
    assert found.examples == len(expanded.origin)
    tokens = expanded.columns["tokens"].sum()
    best = found.outcomes[0]
    assert best.fill["tokens"] == pytest.approx(tokens / (best.rows * BUDGETS["tokens"]))
    # A larger budget splits fewer trees.
    wide = expand(table.columns, table.branches, {**BUDGETS, "tokens": 60})
    assert found.outcomes[-1].examples_a_row * found.outcomes[-1].rows == pytest.approx(
        len(wide.origin)
    )
    assert "of them split" in str(found)
    (advice,) = (each for each in left.advice if each.kind == "oversize")
    branchy = sum(len(tree.children) > 1 for tree in trees if over(tree))
    assert f'{branchy} have several branches; oversize="split"' in advice.text


def test_errors_of_large_examples_name_the_remedy():
    trees = large_trees(np.random.default_rng(3), 20)
    several = next(tree for tree in trees if over(tree) and len(tree.children) > 1)
    table = measured([several])
    bare = tp.costs.CostTable({n: table.columns[n] for n in ("tokens", "crops", "branches")})
    for options in ({}, {"costs": table}, {"costs": bare}):
        with pytest.raises(errors.OversizeError, match='branches, and oversize="split" makes'):
            list(stream([several], oversize="raise", **options))
    with pytest.raises(errors.OversizeError, match='oversize="split" makes'):
        tp.pack(table, BUDGETS)
    single = tp.MessageTree([1] * 99, costs={"crops": 0})
    with pytest.raises(errors.OversizeError) as caught:
        list(stream([single], oversize="raise"))
    assert "split" not in str(caught.value)


def test_parts_are_named_in_states_as_they_are_without_a_table():
    trees = large_trees(np.random.default_rng(5), 24)
    table = measured(trees)
    plain, known = stream(trees), stream(trees, costs=table)
    for one, other in zip(plain, known, strict=True):
        states = [json.loads(json.dumps(row["treepack"].state)) for row in (one, other)]
        assert states[0]["shards"] == states[1]["shards"]


def conversations(n=14):
    """Examples with an image or a system prompt, and more to say about it than a row holds."""
    rng = np.random.default_rng(12)
    found = []
    for i in range(n):
        turns = [[(f"Q{i}.{j}", "ab " * int(rng.integers(1, 12)))] for j in range(rng.integers(13))]
        media = [("image", tiny_models.photo(i))] if i % 3 else []
        branches = [*turns, [("last", "one")]]
        found.append(Conversations(branches, media, system="Be brief." * (i % 2), key=f"c{i}"))
    return found


@pytest.mark.parametrize("most", [None, 20])
@pytest.mark.parametrize("name", ["qwen3_vl", "molmo2"])
def test_conversations_are_split_by_their_outline_as_their_trees_are(name, most):
    family, source = tiny_models.find(name), conversations()
    options = {
        "budgets": {"tokens": 260, family.vision_cost: 600},
        "family": family,
        "max_branch_tokens": most,
        "vision_on_every_row": True,
    }
    trees = [family.load(one) for one in source]
    rows, expected = list(stream(source, **options)), list(stream(trees, **options))
    assert rows[-1]["treepack"].stats["split"] > 1
    assert (rows[-1]["treepack"].stats["truncated"] > 2) == (most is not None)
    for row, other in zip(rows, expected, strict=True):
        assert_batches_equal(row, other)
        assert row["input_ids"].shape[1] <= 260
    streamed = stream(SavedItems(source), virtual_shards=1, **options)
    for packed in (stream(source, **options), streamed):
        check_exactly_once(packed, [one.key for one in source])
        check_resume_everywhere(packed, every=3)
    if most is None:
        costs = tp.costs.measure(source, family, workers=0)
        assert costs.branches is not None
        for row, other in zip(stream(source, costs=costs, **options), rows, strict=True):
            assert_batches_equal(row, other)


def test_a_transform_is_of_the_whole_tree():
    family, source = tiny_models.find("qwen3_vl"), conversations()
    seen = []

    def weighed(tree):
        seen.append(len(tree.children))
        tree = copy.copy(tree)
        tree.children = tree.children[:-1] or tree.children
        return tree

    options = {"budgets": {"tokens": 260, "patches": 600}, "family": family, "transform": weighed}
    packed = stream(source, on_cost_mismatch="requeue", **options)
    rows = list(packed)
    assert set(seen) == {len(family.load(one).children) for one in source}
    trees = [weighed(family.load(one)) for one in source]
    assert trained(rows) == trained([tp.collate([tree], family=family) for tree in trees])
    check_resume_everywhere(packed, every=3)
