"""Branches that are cut to a length: from their end, counted, never in silence."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import treepack as tp
from helpers import cases
from helpers.large_trees import BUDGETS, branch, large_tree, large_trees, trained
from helpers.tree_sources import MeasuredTrees
from treepack import errors
from treepack.dataset.shards.parts import shorten
from treepack.testing import check_exactly_once, check_resume_everywhere

ROOT = ("tokens", "labels", "weight", "end_target", "media", "root_positions", "costs", "key")


def stream(source, **options):
    settings = {"budgets": BUDGETS, "pool_size": 5, "oversize": "split", "seed": 2, **options}
    return tp.PackedDataset(source, **settings)


def paths_below(tree):
    """Tokens of each way from below the root to a leaf."""

    def walk(node, before):
        said = [*before, *node.tokens.tolist()]
        return [path for child in node.children for path in walk(child, said)] or [said]

    return [path for child in tree.children for path in walk(child, [])]


def test_the_laws_of_cut_branches_on_random_trees():
    cut = 0
    for rng in cases.cases(300, "shorten"):
        tree, most = large_tree(rng, itertools.count(1), "one"), int(rng.integers(1, 20))
        copy = large_tree(np.random.default_rng(rng.bit_generator.seed_seq), itertools.count(1))
        after, branches, tokens = shorten(tree, most)
        assert tokens == tree.n_tokens - after.n_tokens
        assert copy.lengths == tree.lengths
        if not tree.children:
            continue
        assert branches == sum(len(path) > most for path in paths_below(tree))
        assert all(getattr(after, name) is getattr(tree, name) for name in ROOT)
        assert all(len(path) <= most for path in paths_below(after))
        # What is left of every way is its beginning.
        kept = {tuple(path) for path in paths_below(after)}
        assert kept >= {tuple(p) for p in paths_below(tree) if len(p) <= most}
        assert kept >= {tuple(path[:most]) for path in paths_below(tree) if len(path) > most}
        left = trained([tp.collate([after])])
        assert set(left) <= set(trained([tp.collate([tree])]))
        if not tokens:
            assert after is tree
            continue
        cut += 1
        assert len(left) == len(trained([tp.collate([tree])])) - lost_targets(tree, most)
    assert cut > 100 * cases.FACTOR


def lost_targets(tree, most):
    """Targets of tokens that lie too far behind the root, and end targets of nodes with such."""

    def walk(node, before):
        places = np.arange(before, before + len(node.tokens))
        labels = np.full(len(places), -100) if node.labels is None else node.labels
        lost = int(((labels != -100) & (places >= most)).sum())
        end = before + len(node.tokens)
        lost += node.end_target is not None and end > most
        return lost + sum(walk(child, end) for child in node.children)

    return sum(walk(child, 0) for child in tree.children)


def test_cut_branches_are_counted_logged_and_resumed(caplog):
    caplog.set_level(logging.WARNING, "treepack")
    trees = large_trees(np.random.default_rng(4), 30)
    packed = stream(trees, max_branch_tokens=6, virtual_shards=1)
    expected = sum(shorten(tree, 6).branches for tree in trees)
    assert list(packed)[-1]["treepack"].stats["truncated"] == expected > 16
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len({record.args[3].bit_length() for record in caplog.records})
    assert all("max_branch_tokens" in text and "example 'example" in text for text in said)
    check_resume_everywhere(packed)
    check_exactly_once(packed, [tree.key for tree in trees])
    plain = stream([shorten(tree, 6).tree for tree in trees], virtual_shards=1)
    assert trained(packed) == trained(plain)


def test_plain_text_is_cut_and_media_are_not():
    text = tp.MessageTree(range(1, 9), labels=range(1, 9), weight=np.arange(8.0), end_target=9)
    after, branches, tokens = shorten(text, 3)
    assert (after.tokens.tolist(), after.labels.tolist()) == ([1, 2, 3], [1, 2, 3])
    assert (after.weight.tolist(), after.end_target) == ([0, 1, 2], None)
    assert (branches, tokens) == (1, 5)
    image = tp.MessageTree([1] * 8, image_runs=[[2, 6, 0]], media={"pixels": np.ones((1, 2))})
    assert shorten(image, 3) == (image, 0, 0)


def test_a_node_that_stands_in_several_places_is_cut_in_each():
    leaf = tp.MessageTree([7, 8, 9], labels=[7, 8, 9])
    tree = tp.MessageTree([1], children=[leaf, tp.MessageTree([5, 6], children=[leaf, leaf])])
    assert paths_below(shorten(tree, 3).tree) == [[7, 8, 9], [5, 6, 7], [5, 6, 7]]
    deep = tp.MessageTree([1])
    for _ in range(5000):
        deep = tp.MessageTree([1], children=[deep])
    assert shorten(deep, 4000).tree.n_tokens == 4001


def test_truncation_needs_lengths():
    trees = large_trees(np.random.default_rng(0), 4)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(errors.DatasetError, match="max_branch_tokens must be a positive int"):
            stream(trees, max_branch_tokens=wrong)
    with pytest.raises(errors.DatasetError, match="changes what examples cost, and measure"):
        stream(MeasuredTrees(4), max_branch_tokens=5)
    packs = tp.pack({"tokens": [9] * 4}, {"tokens": 40})
    with pytest.raises(errors.DatasetError, match=r"and packs= has"):
        stream(trees, oversize="raise", packs=packs, budgets=None, max_branch_tokens=5)


def test_branches_are_cut_before_the_transform_and_split_after_it():
    def doubled(tree):
        children = [tp.MessageTree(np.tile(child.tokens, 2)) for child in tree.children]
        return tp.MessageTree(tree.tokens, children=children, key=tree.key, costs=tree.costs)

    rng = np.random.default_rng(11)
    children = [branch(rng, itertools.count(1), 12) for _ in range(9)]
    source = [tp.MessageTree([1], children=children, costs={"crops": 0})]
    rows = list(stream(source, max_branch_tokens=5, transform=doubled))
    masks = [row["treepack"].mask for row in rows]
    lengths = [n for mask in masks for n in (mask.node_end - mask.node_start).tolist() if n > 1]
    assert lengths
    assert set(lengths) <= set(range(2, 22, 2))
    assert all(mask.used <= BUDGETS["tokens"] for mask in masks)
