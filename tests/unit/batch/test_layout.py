"""A row is its trees side by side: what it says of each is what a row of that tree alone says."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
import treepack as tp
from helpers.cases import cases
from treepack.batch.layout import RowLayout
from treepack.errors import BatchError

MODES = ("none", "image_tokens", "within_image")


def image_runs(rng, n):
    """Disjoint runs of root tokens, of images whose numbers begin anywhere and rise by any step."""
    cuts = np.unique(rng.integers(0, n + 1, 6)).tolist()
    runs = [cut for cut in pairwise(cuts) if rng.random() < 0.7]
    numbers = rng.integers(0, 5) + np.cumsum(rng.integers(0, 3, len(runs)))
    return [(start, end, int(number)) for (start, end), number in zip(runs, numbers, strict=True)]


def random_node(rng, depth=0, **options):
    n = int(rng.integers(3, 12) if depth == 0 else rng.integers(0, 4))
    children = [random_node(rng, depth + 1) for _ in range(rng.integers(0, 3 - depth))]
    weight = rng.uniform(0.1, 3, n) if rng.random() < 0.5 else float(rng.uniform(0.1, 3))
    labels = rng.choice([-100, 4, 7], n) if rng.random() < 0.7 else None
    end = int(rng.integers(9)) if rng.random() < 0.5 else None
    if depth == 0 and rng.random() < 0.7:
        options["image_runs"] = image_runs(rng, n)
    return tp.MessageTree(rng.integers(0, 9, n), labels, weight, end, children, **options)


def random_trees(rng, axes=None):
    trees = [random_node(rng, key=key) for key in range(rng.integers(1, 5))]
    for tree in trees:
        if axes is not None and rng.random() < 0.6:
            tree.root_positions = rng.integers(0, 50, (axes, len(tree.tokens)))
    return trees


@pytest.mark.parametrize("mode", MODES)
def test_no_tree_of_a_row_sees_another_and_each_sees_what_it_sees_alone(mode):
    held = 0
    for rng in cases(150, f"side by side {mode}"):
        trees = random_trees(rng)
        dense = tp.collate(trees, bidirectional=mode)["treepack"].mask.to_dense()
        expected, start = np.zeros_like(dense), 0
        for tree in trees:
            own = slice(start, start + tree.n_tokens)
            alone = tp.collate([tree], bidirectional=mode)["treepack"].mask.to_dense()
            expected[own, own] = alone
            start = own.stop
            held += np.triu(alone, 1).any()
        np.testing.assert_array_equal(dense, expected)
    assert (held > 0) == (mode != "none")


@pytest.mark.parametrize("axes", [None, 1, 3])
def test_tokens_positions_and_targets_are_those_of_the_trees_in_order(axes):
    for rng in cases(150, f"in order {axes}"):
        trees = random_trees(rng, axes)
        if axes is not None and all(tree.root_positions is None for tree in trees):
            trees[-1].root_positions = rng.integers(0, 50, (axes, len(trees[-1].tokens)))
        batch = tp.collate(trees, total=sum(tree.n_tokens for tree in trees) + 2)
        alone = [tp.collate([tree]) for tree in trees]
        starts = np.cumsum([0, *(tree.n_tokens for tree in trees)])
        for name in ("targets", "loss_weights"):
            assert torch.equal(batch[name], torch.cat([one[name] for one in alone], 1))
        places = [one["logits_to_keep"] + s for one, s in zip(alone, starts[:-1], strict=True)]
        assert torch.equal(batch["logits_to_keep"], torch.cat(places))
        tokens = torch.cat([one["input_ids"] for one in alone], 1)
        assert torch.equal(batch["input_ids"][:, :-2], tokens)
        assert not batch["input_ids"][:, -2:].any()
        shape = (1,) if axes in (None, 1) else (axes, 1)
        positions = batch["position_ids"]
        assert positions.shape == (*shape, starts[-1] + 2)
        for tree, start, one in zip(trees, starts[:-1], alone, strict=True):
            got = positions[..., start : start + tree.n_tokens]
            assert torch.equal(got, one["position_ids"].expand(got.shape))


def test_root_positions_of_a_row_have_as_many_axes():
    trees = [tp.MessageTree([1, 2], root_positions=np.zeros((n, 2), int)) for n in (3, 1)]
    with pytest.raises(BatchError, match=r"root_positions on \[1, 3\] axes"):
        tp.collate(trees)


def test_the_weight_of_an_end_is_that_of_the_last_token_or_one():
    def weights(*branches):
        return tp.collate([tp.MessageTree([1], children=branches)])["loss_weights"][0].tolist()

    labels = [-100, -100]
    assert weights(tp.MessageTree([2, 3], labels, [0.5, 3.0], 4)) == [3]
    assert weights(tp.MessageTree([2, 3], labels, 0.25, 4)) == [0.25]
    assert weights(tp.MessageTree([2, 3], None, [0.5, 3.0], 4)) == [3]
    assert weights(tp.MessageTree([], [], [], 4)) == [1]
    assert weights(tp.MessageTree([], [], 0.5, 4)) == [0.5]


def test_costs_are_added_up_and_a_budget_that_nothing_uses_is_empty():
    trees = [tp.MessageTree([1] * n, costs={"crops": n}) for n in (2, 3)]
    trees.append(tp.MessageTree([1]))
    stats = tp.collate(trees, budgets={"crops": 10, "frames": 4})["treepack"].stats
    assert (stats["crops"], stats["tokens"]) == (5, 6)
    assert (stats["fill_crops"], stats["fill_frames"]) == (0.5, 0)
    assert stats["attention_pairs"] == 3 + 6 + 1


class Family:
    """A family that marks what it is asked for."""

    bidirectional = "image_tokens"

    def __init__(self):
        self.asked = []

    def collate(self, trees, total):
        self.asked.append((list(trees), total))
        return {"extra": np.array([total])}

    def position_ids(self, positions):
        return np.stack([positions, positions + 100])


def test_a_family_gives_the_inputs_the_positions_and_the_mode_of_attention():
    family, tree = Family(), tp.MessageTree([1, 2, 3], image_runs=[[0, 2, 0]])
    batch = tp.collate(iter([tree]), family=family, total=5)
    assert family.asked == [([tree], 5)]
    assert batch["extra"].tolist() == [5]
    assert batch["position_ids"].shape == (2, 1, 5)
    assert batch["position_ids"][1, 0, :3].tolist() == [100, 101, 102]
    assert batch["treepack"].mask.bidirectional == "image_tokens"
    other = tp.collate([tree], family=family, bidirectional="none")
    assert other["treepack"].mask.bidirectional == "none"
    assert tp.collate([tree])["treepack"].mask.bidirectional == "none"


def test_windows_are_planned_where_they_are_named_and_travel_with_the_row():
    batch = tp.collate([tp.MessageTree([1] * 9)], sliding_windows=[3, 5], state={"at": 1})
    rows = [batch["treepack"], pickle.loads(pickle.dumps(batch))["treepack"]]
    rows.append(batch.to("meta")["treepack"])
    for row in rows:
        assert {window: plan.window for window, plan in row._windows.items()} == {3: 3, 5: 5}
        assert row.state == {"at": 1}
    assert tp.collate([tp.MessageTree([1])])["treepack"].state is None


def test_media_of_several_trees_are_joined_and_those_of_one_are_copied_only_if_they_must():
    owned = np.ones((2, 3), np.float32)
    view, frozen = np.ones((4, 3), np.float32)[:2], np.ones((2, 3), np.float32)
    frozen.flags.writeable = False
    for array, is_shared in ((owned, True), (view, False), (frozen, False)):
        pixels = tp.collate([tp.MessageTree([1], media={"pixels": array})])["pixels"]
        assert np.shares_memory(pixels.numpy(), array) == is_shared
        assert np.array_equal(pixels, array)
    trees = [tp.MessageTree([1], media={"pixels": np.full((n, 2), n)}) for n in (1, 3)]
    assert tp.collate([*trees, tp.MessageTree([1])])["pixels"][:, 0].tolist() == [1, 3, 3, 3]


def test_a_tensor_is_taken_as_it_is():
    pixels = torch.ones(2, 3)
    assert tp.collate([tp.MessageTree([1], media={"pixels": pixels})])["pixels"] is pixels


def test_a_row_is_as_long_as_its_trees_where_nothing_else_is_asked():
    trees = [tp.MessageTree([1, 2]), tp.MessageTree([3])]
    assert (RowLayout(trees).total, RowLayout(trees).used) == (3, 3)
    assert (RowLayout(trees, 5).total, RowLayout(trees, 5).used) == (5, 3)


def test_a_tree_may_have_lost_all_its_images():
    tree = tp.MessageTree([1, 2], image_runs=[[0, 1, 0]])
    tree.image_runs = tree.image_runs[:0]
    dense = tp.collate([tree], bidirectional="image_tokens")["treepack"].mask.to_dense()
    assert np.array_equal(dense, np.tri(2, dtype=bool))


class Filling(Family):
    """A family that puts an image of two tokens into the padding of every row."""

    def fill_tokens(self, trees, fill):
        self.asked.append(fill)
        return np.array([7, 8])

    def collate(self, trees, total, fill=False):
        self.asked.append((total, fill))
        return {}


def test_what_fills_a_row_lies_behind_its_trees_and_is_seen_by_nobody():
    trees = [tp.MessageTree([1, 2, 3], labels=[1, 2, 3])]
    plain = tp.collate(trees, family=Filling())
    for fill in (True, ("images",)):
        for total in (None, 5, 9):
            family = Filling()
            batch = tp.collate(trees, family=family, total=total, vision_on_every_row=fill)
            length = total or 5
            assert family.asked == [fill, (length, fill)]
            assert batch["input_ids"].tolist() == [[1, 2, 3, 7, 8, *[0] * (length - 5)]]
            mask = batch["treepack"].mask
            assert (mask.used, mask.total) == (3, length)
            assert not mask.to_dense()[3:].any()
            assert not mask.to_dense()[:, 3:].any()
            assert torch.equal(batch["targets"], plain["targets"])
    family = Filling()
    assert tp.collate(trees, family=family)["input_ids"].tolist() == [[1, 2, 3]]
    assert family.asked == [(3, False)]
    with pytest.raises(BatchError, match=r"vision_on_every_row needs the family"):
        tp.collate(trees, vision_on_every_row=True)
