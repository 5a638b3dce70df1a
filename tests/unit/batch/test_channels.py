"""Numbers that a loss reads: each next to its target, whatever the row and wherever it goes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import cases
from treepack import errors
from treepack.dataset.shards.parts import shorten

NAMES = ("advantage", "old_logp")


def random_tree(rng, deep=2, is_root=True):
    n = int(rng.integers(is_root, 5))
    tokens = rng.integers(0, 90, n)
    labels = np.where(rng.random(n) < 0.6, tokens, -100)
    end = int(rng.integers(90)) if rng.random() < 0.4 else None
    children = [random_tree(rng, deep - 1, False) for _ in range(rng.integers(0, 3) * (deep > 0))]
    channels = {name: random_channel(rng, n, end is not None) for name in NAMES}
    name = int(rng.integers(1000))
    return tp.MessageTree(
        tokens, labels, end_target=end, children=children, channels=channels, response_id=name
    )


def random_channel(rng, n, ends):
    shapes = [(), (n + ends,), *([(n,)] if n else [])]
    return rng.normal(size=shapes[rng.integers(len(shapes))]).astype(np.float32)


def expected(trees, name):
    """What a reader of the tree would write down, target by target."""
    found = []
    for tree in trees:
        for node, parent in tree.nodes():
            n, given = len(node.tokens), node.channels[name]
            value = [given] * (n + 1) if np.ndim(given) == 0 else [*given, given[-1:]]
            for place, label in enumerate(node.labels):
                if label != -100 and (parent >= 0 or place):
                    found.append(value[place])
            if node.end_target is not None:
                found.append(value[n])
    return np.array([np.ravel(value)[0] for value in found], np.float32)


def test_channels_stand_next_to_the_targets_of_random_rows():
    for rng in cases.cases(300, "channels"):
        trees = [random_tree(rng) for _ in range(rng.integers(1, 4))]
        batch = tp.collate(trees)
        row = batch["treepack"]
        if not batch["targets"].numel():
            assert row.channels == {}
            continue
        for name in NAMES:
            assert row.channels[name].dtype == torch.float32
            assert row.channels[name].tolist() == expected(trees, name).tolist()
        ids = [node.response_id for tree in trees for node, _ in tree.nodes()]
        assert row.response_ids == tuple(ids)


def test_sums_by_node_are_those_of_a_loop_and_let_gradients_through():
    rng = np.random.default_rng(3)
    row = tp.collate([random_tree(rng) for _ in range(3)])["treepack"]
    values = torch.randn(len(row.target_node), dtype=torch.float64, requires_grad=True)
    sums = row.sum_by_node(values[None])
    for node in range(row.mask.n_nodes):
        assert torch.isclose(sums[node], values[torch.from_numpy(row.target_node == node)].sum())
    sums.square().sum().backward()
    assert torch.allclose(values.grad, 2 * sums.detach()[torch.from_numpy(row.target_node)])
    with pytest.raises(errors.BatchError, match="2 numbers for a row of"):
        row.sum_by_node(torch.zeros(2))


def test_channels_go_where_the_row_goes():
    tree = random_tree(np.random.default_rng(5))
    batch = tp.collate([tree, tree])
    row = batch["treepack"]
    for other in (pickle.loads(pickle.dumps(batch))["treepack"], row.to("cpu")):
        assert other.response_ids == row.response_ids
        for name in NAMES:
            assert torch.equal(other.channels[name], row.channels[name])
    assert all(values.is_meta for values in row.to("meta").channels.values())


def test_channels_arrive_through_a_worker():
    trees = [random_tree(np.random.default_rng(n)) for n in range(12)]
    dataset = tp.PackedDataset(trees, budgets={"tokens": 60}, pool_size=4, seed=1)
    found = {}
    for workers in (0, 1):
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
        rows = [batch["treepack"] for batch in loader]
        found[workers] = [(row.channels["advantage"].tolist(), row.response_ids) for row in rows]
    assert found[0] == found[1]
    assert sum(len(values) for values, _ in found[0]) > 0


def test_a_branch_that_is_cut_keeps_the_numbers_of_what_is_left():
    values = [0.5, 1.5, 2.5, 3.5]
    answer = tp.MessageTree([1, 2, 3], [1, 2, 3], end_target=9, channels={"a": values, "b": 2})
    after = shorten(tp.MessageTree([7], children=[answer]), 2).tree
    row = tp.collate([after])["treepack"]
    assert row.channels["a"].tolist() == [0.5, 1.5]
    assert row.channels["b"].tolist() == [2.0, 2.0]
    assert answer.channels["a"].tolist() == values


def test_a_node_without_targets_needs_no_number():
    answer = tp.MessageTree([1], labels=[1], channels={"a": -3.0})
    row = tp.collate([tp.MessageTree([7], children=[tp.MessageTree([2]), answer])])["treepack"]
    assert row.channels["a"].tolist() == [-3.0]


def test_a_number_that_was_forgotten_is_named():
    good = tp.MessageTree([1], labels=[1], channels={"a": 1.0})
    bad = tp.MessageTree([2], labels=[2])
    tree = tp.MessageTree([7], children=[good, bad], key="coco/17")
    with pytest.raises(errors.BatchError, match=r"'coco/17'.*node 2 .* no channel 'a'"):
        tp.collate([tp.MessageTree([5], children=[good]), tree])


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"a": [1.0]}, r"'a' must be one number or one for each of 2 tokens, or 3 .* shape \[1\]"),
        ({"a": "x"}, "'a' must be one number"),
        ({"a": [1.0, float("nan")]}, r"'a'\[1\] is nan; it must be finite"),
        ({"a": 1e39}, r"'a' is 1e\+39; it must be finite"),
        ([1.0], "channels must be a dict by name"),
    ],
)
def test_bad_channels_are_named(channels, message):
    with pytest.raises(errors.TreeError, match=f"example 3: (channel )?{message}"):
        tp.MessageTree([1, 2], [1, 2], end_target=4, channels=channels, key=3)


def test_an_end_target_without_tokens_needs_its_own_number():
    with pytest.raises(errors.TreeError, match="channel 'a'"):
        tp.MessageTree([], end_target=4, channels={"a": []})
    child = tp.MessageTree([], end_target=4, channels={"a": [2.0]})
    row = tp.collate([tp.MessageTree([1], children=[child])])["treepack"]
    assert row.channels["a"].tolist() == [2.0]
