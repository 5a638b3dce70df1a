"""`TreeMask` equals its reference implementation and its definition, on random rows."""

import pickle

import numpy as np
import treepack as tp
from helpers import cases
from helpers.random_masks import random_forest
from treepack._reference.mask import ReferenceMask
from treepack._reference.plan import build_plan, count_pairs

NUMBERS = ("total", "used", "area", "bidirectional", "n_nodes", "n_examples")
ARRAYS = (
    "node_start",
    "node_end",
    "subtree_end",
    "node_parent",
    "node_depth",
    "node_example",
    "run_start",
    "run_end",
    "group_ptr",
    "key_lo",
    "key_end",
    "query_hi",
)


def equal(ours, theirs):
    return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def masks(count, label, **shape):
    for rng in cases.cases(count, label):
        row = random_forest(rng, **shape)
        yield rng, tp.TreeMask.from_nodes(*row), ReferenceMask(*row)


def test_numbers_and_arrays_are_those_of_the_reference():
    for _, mask, reference in masks(1000, "node table and vectors"):
        assert [getattr(mask, name) for name in NUMBERS] == [getattr(reference, n) for n in NUMBERS]
        for name in ARRAYS:
            assert equal(getattr(mask, name), getattr(reference, name)), name


def test_the_dense_mask_is_the_definition():
    for _, mask, reference in masks(1000, "dense"):
        assert equal(mask.to_dense(), reference.to_dense())


def test_visible_is_an_entry_of_the_dense_mask():
    for _, mask, reference in masks(200, "visible"):
        tokens = range(mask.total)
        seen = [[mask.visible(q, k) for k in tokens] for q in tokens]
        assert np.array_equal(seen, reference.to_dense())
        assert seen == [[reference.visible(q, k) for k in tokens] for q in tokens]


def test_the_plan_is_that_of_the_reference():
    for _, mask, reference in masks(2000, "plan", longest=8, most_nodes=16):
        for ours, theirs in zip(mask.plan(), build_plan(reference), strict=True):
            assert equal(ours, theirs)


def test_the_plan_computes_every_visible_pair_once():
    for _, mask, reference in masks(1000, "pairs"):
        pairs = count_pairs(*mask.plan())
        assert np.array_equal(pairs, reference.to_dense())
        assert pairs.sum() == mask.area


def test_positions_are_those_of_the_reference():
    for rng, mask, reference in masks(1000, "positions"):
        assert equal(mask.positions(), reference.positions())
        given = rng.integers(-9, 9, (rng.integers(1, 4), mask.total))
        assert equal(mask.positions(given), reference.positions(given))


def test_only_positions_of_roots_are_read():
    for rng, mask, _ in masks(200, "roots"):
        given = rng.integers(-9, 9, (2, mask.total))
        of_roots = np.zeros(mask.total, bool)
        for start, end, parent in zip(
            mask.node_start, mask.node_end, mask.node_parent, strict=True
        ):
            of_roots[start:end] = parent < 0
        other = np.where(of_roots, given, rng.integers(-9, 9, given.shape))
        assert equal(mask.positions(given), mask.positions(other))


def random_targets(rng, mask):
    nodes = np.flatnonzero(rng.random(mask.n_nodes) < 0.6).astype(np.int32)
    count = int((mask.node_end - mask.node_start)[nodes].sum())
    # Labels come in stretches, as prompts and answers do.
    ignored = np.repeat(rng.random(count + 1) < 0.4, 3)[:count]
    return (
        nodes,
        np.where(ignored, -100, rng.integers(0, 9, count)),
        rng.random(count, np.float32),
        np.where(rng.random(len(nodes)) < 0.5, -100, 2),
        rng.random(len(nodes), np.float32),
    )


def test_targets_are_those_of_the_reference():
    for rng, mask, reference in masks(1000, "targets"):
        given = random_targets(rng, mask)
        for ours, theirs in zip(mask.targets(*given), reference.targets(*given), strict=True):
            assert equal(ours, theirs)


def test_a_pickled_mask_is_the_same_mask():
    for _, mask, _ in masks(1000, "pickle"):
        again = pickle.loads(pickle.dumps(mask))
        assert again == mask
        assert hash(again) == hash(mask)
        assert repr(again) == repr(mask)
        for ours, theirs in zip(again.plan(), mask.plan(), strict=True):
            assert equal(ours, theirs)


def test_a_mask_is_equal_only_to_the_same_mask():
    different = {}
    for _, mask, reference in masks(1000, "equality"):
        key = (mask.bidirectional, mask.total, *(getattr(reference, n).tobytes() for n in ARRAYS))
        for other_key, other in different.items():
            assert (mask == other) == (key == other_key)
        if len(different) < 50:
            different[key] = mask
