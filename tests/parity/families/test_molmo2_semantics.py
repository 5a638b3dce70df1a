"""Our mask against the one that Molmo2 trains with, written from its definition alone.

Molmo2 numbers the tokens of a row: 10,000 for a root, ``b`` for branch ``b``, and 100,000 more for
each example before. A token sees another if its own number is not larger, and the other comes
earlier or both are image tokens that attend both ways, and the other is not padding.
"""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import tiny_models
from helpers.cases import cases
from treepack.attention import TreePlan
from treepack.batch import PackedRow

ROOT, EXAMPLE = 10_000, 100_000
MODES = ("image_tokens", "within_image")
PADDING, TEXT = -1, -1


class Node(NamedTuple):
    """A root or a branch: for each of its tokens the number of its image, or ``TEXT``."""

    example: int
    branch: int | None
    images: list[int]


def draw_row(rng, branch_images=False):
    """One to four examples of a root with frames and 0 to 6 branches, in order of the row."""
    nodes, n_images = [], 0
    for example in range(rng.integers(1, 5)):
        root = [TEXT] * int(rng.integers(1, 4))
        for _ in range(rng.integers(0, 4)):
            root += [n_images] * int(rng.integers(1, 6)) + [TEXT] * int(rng.integers(0, 3))
            n_images += 1
        nodes.append(Node(example, None, root))
        for branch in range(rng.integers(0, 7)):
            own = [TEXT] * int(rng.integers(1, 8))
            if branch_images and rng.random() < 0.5:
                own += [n_images] * int(rng.integers(1, 4)) + [TEXT]
                n_images += 1
            nodes.append(Node(example, branch, own))
    return nodes, int(rng.integers(0, 9))


class Molmo2Row:
    """Per-token arrays of a row, as Molmo2's collator makes them."""

    def __init__(self, nodes, padding):
        sizes = [len(node.images) for node in nodes]
        numbers = [ROOT if node.branch is None else node.branch for node in nodes]
        numbers = [n + EXAMPLE * node.example for n, node in zip(numbers, nodes, strict=True)]

        def per_token(values, fill):
            return np.concatenate([np.repeat(values, sizes), np.full(padding, fill)]).astype(int)

        self.sub = per_token(numbers, 0)
        self.example = per_token([node.example for node in nodes], PADDING)
        self.branch = per_token([-1 if n.branch is None else n.branch for n in nodes], PADDING)
        self.image = np.array([i for node in nodes for i in node.images] + [TEXT] * padding)
        self.is_token = self.example != PADDING

    def visible(self, mode):
        """``[query, key]`` bool."""
        index = np.arange(len(self.sub))
        causal = index[:, None] >= index
        group = self.image if mode == "within_image" else self.example
        both_ways = self._pairs_of_images() & (group[:, None] == group)
        return (self.sub[:, None] <= self.sub) & (causal | both_ways) & self.is_token

    def _pairs_of_images(self):
        is_image = self.image != TEXT
        return is_image[:, None] & is_image


def our_mask(nodes, padding, mode):
    lengths = [len(node.images) for node in nodes]
    parents, root = [], -1
    for place, node in enumerate(nodes):
        root = place if node.branch is None else root
        parents.append(-1 if node.branch is None else root)
    images = np.array([i for node in nodes for i in node.images])
    starts = np.flatnonzero(np.diff(images, prepend=TEXT - 1))
    ends = np.append(starts[1:], len(images))
    runs = [(a, b, images[a]) for a, b in zip(starts, ends, strict=True) if images[a] != TEXT]
    return tp.TreeMask.from_nodes(lengths, parents, runs, mode, sum(lengths) + padding)


@pytest.mark.parametrize("mode", MODES)
def test_we_see_what_molmo2_sees(mode):
    for rng in cases(2_000, f"molmo2 {mode}"):
        nodes, padding = draw_row(rng)
        row, mask = Molmo2Row(nodes, padding), our_mask(nodes, padding, mode)
        expected = row.visible(mode)
        assert np.array_equal(mask.to_dense()[row.is_token], expected[row.is_token])
        assert mask.area == expected[row.is_token].sum()


@pytest.mark.parametrize("mode", MODES)
def test_the_ids_are_needed(mode):
    """Without packing ids the same rows differ, so that the agreement above says something."""
    differing = 0
    for rng in cases(50, f"molmo2 ids {mode}"):
        nodes, padding = draw_row(rng)
        row = Molmo2Row(nodes, padding)
        expected = row.visible(mode)[row.is_token]
        row.sub[:] = 0
        differing += not np.array_equal(row.visible(mode)[row.is_token], expected)
    assert differing > 25


@pytest.mark.parametrize("mode", MODES)
def test_padding_sees_nothing_where_molmo2_lets_it_see_the_row(mode):
    for rng in cases(50, f"molmo2 padding {mode}"):
        nodes, padding = draw_row(rng)
        padding += 1
        row, mask = Molmo2Row(nodes, padding), our_mask(nodes, padding, mode)
        assert row.visible(mode)[~row.is_token].sum() == padding * row.is_token.sum()
        assert not mask.to_dense()[~row.is_token].any()


def test_images_in_a_branch_do_not_reach_into_later_branches():
    """Molmo2's ids order the branches: an image of one sees the images of all that follow it.

    A branch would then depend on its siblings, and its loss on what it was packed with. Ours never
    leaves the path; that is the only difference, and there is none within an image.
    """
    leaks = 0
    for rng in cases(200, "molmo2 branch images"):
        nodes, padding = draw_row(rng, branch_images=True)
        row = Molmo2Row(nodes, padding)
        dense = our_mask(nodes, padding, "image_tokens").to_dense()[row.is_token]
        theirs = row.visible("image_tokens")[row.is_token]
        later = (row.branch[:, None] >= 0) & (row.branch[:, None] < row.branch)
        leak = row._pairs_of_images() & (row.example[:, None] == row.example) & later
        assert np.array_equal(theirs, dense | leak[row.is_token])
        assert not (dense & leak[row.is_token]).any()
        leaks += leak.any()
        within = our_mask(nodes, padding, "within_image").to_dense()[row.is_token]
        assert np.array_equal(within, row.visible("within_image")[row.is_token])
    assert leaks > 50


@pytest.mark.parametrize("mode", MODES)
def test_the_text_model_of_molmo2_gives_the_same_under_either(mode):
    stock = tiny_models.molmo2_model().model.language_model
    stock.set_attn_implementation("sdpa")
    ours = copy.deepcopy(stock)
    tp.hf.register()
    ours.set_attn_implementation("treepack")
    for rng in cases(10, f"molmo2 model {mode}"):
        nodes, padding = draw_row(rng)
        row, mask = Molmo2Row(nodes, padding), our_mask(nodes, padding, mode)
        inputs = {
            "input_ids": torch.from_numpy(rng.integers(0, 200, (1, mask.total))),
            "position_ids": torch.from_numpy(mask.positions()),
            "use_cache": False,
        }
        dense = torch.from_numpy(row.visible(mode))[None, None]
        with torch.no_grad():
            theirs = stock(**inputs, attention_mask=dense).last_hidden_state[0]
            found = ours(**inputs, treepack=PackedRow(mask, TreePlan.from_mask(mask)))
        found = found.last_hidden_state[0]
        assert theirs.abs().max() > 1
        assert (found - theirs)[: mask.used].abs().max() < 1e-12
