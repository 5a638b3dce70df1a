"""Trees that are too large become several: every branch once, all budgets kept, nothing twice."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import treepack as tp
from helpers import cases
from helpers.large_trees import BUDGETS, large_tree, large_trees, trained
from helpers.simulated.interrupts import files_of, interrupted
from helpers.tree_sources import SavedStream
from treepack import errors
from treepack._reference import splitting
from treepack.dataset.shards.examples import Arrival, Examples
from treepack.dataset.state import shards_of
from treepack.packing.splitting import first_fit, units_of
from treepack.testing import (
    assert_batches_equal,
    check_exactly_once,
    check_resume_everywhere,
    check_same_packs_for_any_topology,
)

ROOT = ("tokens", "weight", "media", "root_positions", "image_runs", "costs", "key", "role")


def stream(source, **options):
    settings = {"budgets": BUDGETS, "pool_size": 5, "oversize": "split", "seed": 2, **options}
    return tp.PackedDataset(source, **settings)


def parts_of(tree, budgets):
    """Parts of a tree and their costs, as a stream makes them."""
    examples = Examples(stream([tree], budgets=budgets).settings)
    arrival, cost = examples.measure(Arrival(0, 0, tree))
    return [(one, cost) for one, cost in examples.split(arrival, cost, budgets)]


def leaves_of(tree):
    return [node for node, parent in tree.nodes() if parent >= 0 and not node.children]


def over(tree, budgets=BUDGETS):
    return any(tree.cost[name] > size for name, size in budgets.items())


def test_the_laws_of_parts_on_random_trees():
    split = rejected = 0
    for rng in cases.cases(400, "parts"):
        tree = large_tree(rng, itertools.count(1), "one")
        budgets = {"tokens": int(rng.integers(12, 60)), "crops": int(rng.integers(3, 6))}
        if not over(tree, budgets):
            continue
        expected = splitting.split(tree, budgets)
        if expected is None:
            rejected += 1
            with pytest.raises(errors.OversizeError, match=r"example 'one'.*cannot be split"):
                parts_of(tree, budgets)
            continue
        split += 1
        parts = parts_of(tree, budgets)
        numbers = {id(leaf): number for number, leaf in enumerate(leaves_of(tree))}
        made = [[numbers[id(leaf)] for leaf in leaves_of(one.item)] for one, _ in parts]
        assert made == expected
        assert sorted(itertools.chain(*made)) == list(range(len(numbers)))
        assert all(part == sorted(part) for part in made)
        for number, (one, cost) in enumerate(parts):
            part = one.item
            assert cost == {name: part.cost[name] for name in budgets}
            assert not over(part, budgets)
            assert all(getattr(part, name) is getattr(tree, name) for name in ROOT)
            has_targets = part.labels is tree.labels and part.end_target == tree.end_target
            assert has_targets if not number else part.labels is part.end_target is None
        whole = trained([tp.collate([tree])])
        assert trained([tp.collate([one.item]) for one, _ in parts]) == whole
    assert split > 40 * cases.FACTOR < rejected * 2


def bins(sizes, room, **options):
    found = first_fit(units_of(sizes, **options), room)
    return [([unit.start for unit in own], tokens) for own, tokens in found]


def test_first_fit_fills_the_first_that_has_room():
    expected = [([0, 2], 10), ([1, 3], 10), ([4, 5], 10)]
    assert bins([6, 5, 4, 5, 1, 9], 10) == expected
    assert bins([], 3) == []
    assert bins([0, 3, 0], 3) == [([0, 1, 2], 3)]


def test_what_branches_share_is_counted_once_in_each_part():
    # The third shares 4 tokens with the first, whatever stands between them.
    assert bins([6, 9, 6], 9, shared=[0, 5, 4]) == [([0, 2], 8), ([1], 9)]
    assert bins([6, 9, 6], 9, shared=[0, 4, 5]) == [([0, 2], 8), ([1], 9)]


def test_a_stream_has_each_branch_once_in_rows_within_their_budgets():
    for rng in cases.cases(12, "streams"):
        trees = large_trees(rng, 30)
        packed = stream(trees, virtual_shards=2)
        check_exactly_once(packed, [tree.key for tree in trees])
        check_exactly_once(packed)
        rows = list(packed)
        large = {tree.key for tree in trees if over(tree)}
        assert large
        assert trained(rows) == trained([tp.collate([tree]) for tree in trees])
        keys = [key for row in rows for key in row["treepack"].keys]
        more = len(keys) - len(trees)
        shards = shards_of(packed.state_dict()).values()
        assert sum(shard.more_parts for shard in shards) == more
        assert sum(shard.counters[4] for shard in shards) == len(large)
        parts = {tree.key: splitting.split(tree, BUDGETS) for tree in trees if over(tree)}
        assert {key: keys.count(key) for key in large} == {k: len(p) for k, p in parts.items()}


class Measured:
    """Costs are known before; trees are loaded when they are selected, or too large."""

    def __init__(self, trees, wrong=()):
        self.trees, self.wrong = trees, wrong

    def __len__(self):
        return len(self.trees)

    def __getitem__(self, index):
        raise AssertionError("it is loaded")

    def measure(self, index):
        cost = self.trees[index].cost
        return {**cost, "tokens": cost["tokens"] + 2 * (index in self.wrong)}

    def load(self, index):
        return self.trees[index]


class Streamed(SavedStream):
    """An iterable that can be split and saves its place; of trees without keys."""

    def __init__(self, trees, first=0, step=1):
        super().__init__(len(trees), first, step)
        self.trees = trees

    def shard(self, num_shards, index):
        return Streamed(self.trees, self.first + self.step * index, self.step * num_shards)

    def __iter__(self):
        start, self.next = self.next, self.first
        for index in range(start, self.n, self.step):
            self.next = index + self.step
            yield self.trees[index]


class Whole(Streamed):
    shard = property()


SOURCES = {"list": list, "measured": Measured, "saved": Streamed, "whole": Whole}


@pytest.mark.parametrize("source", SOURCES)
def test_resuming_at_every_step_changes_nothing(source):
    trees = large_trees(np.random.default_rng(5), 24)
    packed = stream(SOURCES[source](trees), virtual_shards=2)
    held = {"keys": 0, "requeued": 0}
    for row in packed:
        for shard in shards_of(json.loads(json.dumps(row["treepack"].state))).values():
            held["keys"] += any(isinstance(key, list) for key in shard.keys)
            held["requeued"] += bool(shard.requeued)
    assert min(held.values()) > 2
    assert check_resume_everywhere(packed) > 12
    check_exactly_once(packed, [tree.key for tree in trees])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("before", "after"), [(2, 2), (0, 2), (2, 0)])
def test_resuming_with_workers_changes_nothing(before, after):
    trees = large_trees(np.random.default_rng(6), 16)
    for kind in (list, Whole):
        packed = stream(kind(trees), virtual_shards=2)
        check_resume_everywhere(packed, num_workers=before, resume_workers=after, every=4)


def test_packs_do_not_depend_on_ranks():
    trees = large_trees(np.random.default_rng(7), 60)
    check_same_packs_for_any_topology(stream(trees, virtual_shards=4), [(2, 0), (4, 0)])


def test_sources_that_measure_give_the_same_rows():
    trees = large_trees(np.random.default_rng(8), 40)
    for one, other in zip(stream(trees), stream(Measured(trees)), strict=True):
        assert_batches_equal(one, other)
    costs = tp.costs.from_numpy([[t.cost[n] for n in BUDGETS] for t in trees], list(BUDGETS))
    for one, other in zip(stream(trees), stream(trees, costs=costs), strict=True):
        assert_batches_equal(one, other)


def test_a_tree_measured_wrongly_is_an_error_or_split_by_its_real_cost():
    trees = large_trees(np.random.default_rng(9), 40)
    wrong = {index for index, tree in enumerate(trees) if tree.n_tokens > 30}
    assert any(trees[index].n_tokens <= BUDGETS["tokens"] for index in wrong)
    packed = stream(Measured(trees, wrong), on_cost_mismatch="requeue")
    check_exactly_once(packed, [tree.key for tree in trees])
    check_resume_everywhere(packed)
    assert trained(packed) == trained([tp.collate([tree]) for tree in trees])
    with pytest.raises(errors.DataError, match="was measured with"):
        list(stream(Measured(trees, wrong)))
    skipping = stream(Measured(trees, wrong), on_error="skip", virtual_shards=1)
    check_exactly_once(skipping)
    assert list(skipping)[-1]["treepack"].stats["split"] == 0


@pytest.mark.parametrize("kind", [Measured, Whole])
def test_an_interrupt_at_any_line_loses_and_repeats_nothing(kind):
    trees = large_trees(np.random.default_rng(10), 7)
    files = files_of("iterator", "virtual_shard", "examples", "parts", "readers", "iterables")

    def small():
        return stream(kind(trees), pool_size=3, virtual_shards=1)

    whole, line = list(small()), 0
    assert whole[-1]["treepack"].stats["split"] > 1
    while True:
        line += 3 if cases.FACTOR >= 10 else 19
        packed, rows = small(), []
        if not interrupted(iter(packed), rows, files, line):
            break
        other = small()
        other.load_state_dict(packed.state_dict())
        for rest in (list(other), list(packed._progress._iterator)):
            assert len(rows) + len(rest) == len(whole), line
            for one, row in zip([*rows, *rest], whole, strict=True):
                assert_batches_equal(one, row, f"after line {line}")
    assert line > 400


def root_too_large():
    return tp.MessageTree([1] * 50, children=[tp.MessageTree([2])], key="root", costs={"crops": 1})


def branch_too_large():
    children = [tp.MessageTree([2] * 5), tp.MessageTree([3] * 33)]
    return tp.MessageTree([1] * 10, children=children, key="branch", costs={"crops": 1})


def crops_too_large():
    children = [tp.MessageTree([2] * 20) for _ in range(4)]
    return tp.MessageTree([1], children=children, key="crops", costs={"crops": 7})


def pair_too_large():
    children = [tp.MessageTree([2] * 20, role=role) for role in ("chosen", "rejected")]
    return tp.MessageTree([1], children=children, key="pair", costs={"crops": 1})


UNSPLITTABLE = [
    (root_too_large, r"'root' is over .*its root alone takes 50 tokens, and the budget is 40"),
    (branch_too_large, r"'branch'.*its root and branch 1 have 43 tokens.*is 40; max_branch_tokens"),
    (crops_too_large, r"'crops'.*its root alone takes 7 crops, and the budget is 6"),
    (pair_too_large, r"'pair'.*its root and branches 0 to 1, which belong together, have 41"),
]


@pytest.mark.parametrize(("make", "says"), UNSPLITTABLE)
def test_what_cannot_be_split_falls_under_the_other_policy(make, says):
    small = tp.MessageTree([1, 2], key="small", costs={"crops": 0})
    source = [make(), small]
    with pytest.raises(errors.OversizeError, match=says) as caught:
        list(stream(source))
    assert '("split", "drop")' in str(caught.value)
    rows = list(stream(source, on_error="skip", shuffle=False))
    assert [row["treepack"].keys for row in rows] == [["small"]]
    dropped = stream(source, oversize=("split", "drop"), shuffle=False)
    check_exactly_once(dropped)
    (row,) = dropped
    assert (row["treepack"].keys, row["treepack"].stats["dropped"]) == (["small"], 1)
    alone = list(stream(source, oversize=["split", "alone"], shuffle=False))
    assert [row["treepack"].keys for row in alone] == [[make().key], ["small"]]
    assert alone[-1]["treepack"].stats["alone"] == 1
    assert [row["treepack"].stats["split"] for row in alone] == [0, 0]


def test_chosen_and_rejected_stay_together():
    def answers(n, m):
        return [tp.MessageTree([2] * n, role="chosen"), tp.MessageTree([3] * m, role="rejected")]

    children = [*answers(6, 8), *answers(9, 3), *answers(5, 9), tp.MessageTree([4] * 7)]
    source = [tp.MessageTree([1] * 6, children=children, costs={"crops": 0})]
    rows = list(stream(source, budgets={"tokens": 20}))
    assert [row["treepack"].roles for row in rows] == [
        (None, "chosen", "rejected"), (None, "chosen", "rejected"),
        (None, "chosen", "rejected"), None,
    ]  # fmt: skip
    lengths = [row["treepack"].mask.node_end - row["treepack"].mask.node_start for row in rows]
    assert [list(each) for each in lengths] == [[6, 6, 8], [6, 9, 3], [6, 5, 9], [6, 7]]


def test_settings_that_do_not_go_together_are_rejected():
    trees = large_trees(np.random.default_rng(0), 4)
    for wrong in ("splat", ("drop", "split"), ("split", "split"), ("split",), None, 3):
        with pytest.raises(errors.BudgetError, match="oversize must be one of"):
            stream(trees, oversize=wrong)
    packs = tp.pack({"tokens": [9] * 4}, {"tokens": 40})
    with pytest.raises(errors.DatasetError, match='oversize="split" makes new examples'):
        stream(trees, budgets=None, packs=packs)
    prints = [
        json.dumps(stream(trees, **options).settings.fingerprint())
        for options in ({}, {"oversize": "raise"}, {"oversize": ("split", "drop")})
    ]
    assert len(set(prints)) == 3
    state = stream(trees).state_dict()
    with pytest.raises(errors.StateError, match="oversize was 'split' and is None"):
        stream(trees, oversize="raise").load_state_dict(state)


def test_a_source_that_gives_fewer_branches_the_second_time_is_an_error():
    class Shrinking(list):
        def __getitem__(self, index):
            tree = super().__getitem__(index)
            return tp.MessageTree(tree.tokens, children=tree.children[:1], costs=tree.costs)

    children = [tp.MessageTree([2] * 9) for _ in range(9)]
    source = [tp.MessageTree([1], children=children, costs={"crops": 0})]
    packed = stream(source, pool_size=1)
    next(iter(packed))
    other = stream(Shrinking(source), pool_size=1)
    other.load_state_dict(packed.state_dict())
    with pytest.raises(errors.DataError, match="was split when it had 8 branches or more, and has"):
        list(other)


def test_split_trees_are_counted_in_reports():
    statistics = tp.train.Statistics()
    trees = large_trees(np.random.default_rng(3), 30)
    statistics.add(stream(trees, virtual_shards=3))
    report = statistics.report()
    assert report["treepack/split_total"] == sum(map(over, trees)) > 3
    assert report["treepack/truncated_total"] == 0
