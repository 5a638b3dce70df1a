"""Our windows are those of Gemma 3: the masks that transformers builds for text and images."""

from __future__ import annotations

from inspect import signature

import numpy as np
import torch
import treepack as tp
from helpers.cases import cases
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import (
    create_masks_for_vision_model,
    get_block_sequence_ids_for_mask,
)
from treepack._core import window_plan
from treepack._reference.plan import count_pairs


def gemma3_masks(is_image, window):
    """What full and sliding layers see, bool ``[n, n]`` each."""
    config = Gemma3TextConfig(sliding_window=window, num_hidden_layers=2)
    config._attn_implementation = "sdpa"
    groups = get_block_sequence_ids_for_mask(torch.tensor(is_image[None], dtype=torch.int64))
    # transformers has renamed the cache, so what is not given is found by not being there.
    given = {"config", "inputs_embeds", "block_sequence_ids"}
    nothing = dict.fromkeys(signature(create_masks_for_vision_model).parameters.keys() - given)
    inputs = torch.zeros(1, len(is_image), 1)
    masks = create_masks_for_vision_model(config, inputs, **nothing, block_sequence_ids=groups)
    return [masks[f"{kind}_attention"][0, 0].numpy() for kind in ("full", "sliding")]


def runs_of(is_image):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_image, [0]])))
    return [[start, end, image] for image, (start, end) in enumerate(edges.reshape(-1, 2))]


def test_each_path_sees_what_gemma3_sees():
    bitten = 0
    for rng in cases(150, "gemma 3 masks"):
        n = int(rng.integers(6, 24))
        root = np.repeat(rng.random(n) < 0.5, rng.integers(1, 6))[:n]
        branches = rng.integers(1, 6, 2)
        mask = tp.TreeMask.from_nodes([n, *branches], [-1, 0, 0], runs_of(root), "within_image")
        window = int(rng.integers(1, n + 6))
        plans = [mask.plan(), window_plan(mask, window)]
        ours = [count_pairs(*plan) for plan in plans]
        for start, end in zip(mask.node_start[1:], mask.node_end[1:], strict=True):
            path = np.concatenate([np.arange(n), np.arange(start, end)])
            is_image = np.concatenate([root, np.zeros(end - start, bool)])
            for seen, theirs in zip(ours, gemma3_masks(is_image, window), strict=True):
                np.testing.assert_array_equal(seen[np.ix_(path, path)], theirs)
        longest_image = max((end - start for start, end, _ in runs_of(root)), default=0)
        bitten += longest_image > window
    # Windows shorter than an image cut what it sees behind, never what it sees ahead.
    assert bitten > 10
