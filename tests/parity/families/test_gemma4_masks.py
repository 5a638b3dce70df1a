"""Gemma 4, whose image tokens see ahead in layers with a sliding window, in no others."""

from __future__ import annotations

import copy
from inspect import signature

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import zoo
from helpers.cases import cases
from helpers.unrounded import unrounded
from helpers.zoo.examples import TEXT, A, image, pair
from helpers.zoo.others import gemma4, gemma4_unified
from transformers import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import (
    create_masks_for_vision_model,
    get_block_sequence_ids_for_mask,
)
from treepack import families
from treepack._reference.plan import count_pairs
from treepack.errors import AttentionError

SLIDING = "within_image_sliding"


def gemma4_masks(is_image, window):
    """What full and sliding layers see, bool ``[n, n]`` each."""
    layers = ["sliding_attention", "full_attention"]
    config = Gemma4TextConfig(sliding_window=window, num_hidden_layers=2, layer_types=layers)
    config._attn_implementation = "sdpa"
    types = torch.tensor(is_image[None], dtype=torch.int64)
    groups = get_block_sequence_ids_for_mask(types, torch.device("cpu"))
    given = {"config", "inputs_embeds", "block_sequence_ids"}
    nothing = dict.fromkeys(signature(create_masks_for_vision_model).parameters.keys() - given)
    inputs = torch.zeros(1, len(is_image), 1)
    masks = create_masks_for_vision_model(config, inputs, **nothing, block_sequence_ids=groups)
    seen = []
    for kind in ("full_attention", "sliding_attention"):
        mask = masks[kind]
        plain = np.tri(len(is_image), dtype=bool)
        seen.append(plain if mask is None else mask[0, 0].numpy())
    return seen


def runs_of(is_image):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_image, [0]])))
    return [[start, end, image] for image, (start, end) in enumerate(edges.reshape(-1, 2))]


def test_each_path_sees_what_gemma4_sees():
    differ = 0
    for rng in cases(100, "gemma 4 masks"):
        n = int(rng.integers(6, 24))
        root = np.repeat(rng.random(n) < 0.5, rng.integers(1, 6))[:n]
        branches = [tp.MessageTree([2] * m) for m in rng.integers(1, 6, 2)]
        tree = tp.MessageTree([1] * n, image_runs=runs_of(root), children=branches)
        window = int(rng.integers(1, n + 12))
        row = tp.collate([tree], bidirectional=SLIDING, sliding_windows=[window])["treepack"]
        plans = row.plan, row.plan_for(window)
        ours = [count_pairs(plan.entries.numpy(), plan.host.numpy()) for plan in plans]
        for start, end in zip(row.mask.node_start[1:], row.mask.node_end[1:], strict=True):
            path = np.concatenate([np.arange(n), np.arange(start, end)])
            is_image = np.concatenate([root, np.zeros(end - start, bool)])
            theirs = gemma4_masks(is_image, window)
            for seen, expected in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(seen[np.ix_(path, path)], expected)
            differ += (theirs[1] & ~theirs[0]).any()
    assert differ > 50


def test_a_window_longer_than_the_row_does_not_hide_its_mask():
    processor, model = gemma4("vision", window=4000)
    with unrounded():
        one = tp.Conversations(A, [image(1, 40, 60)], key="one")
        family = families.find(processor)
        report = tp.testing.check_exact(model, family, [one, pair("gemma4")])
    assert report.logits < 1e-12
    assert report.gradients < 1e-11


def rows_of(name, *examples):
    """Rows of every mode, by their name."""
    family = families.find(zoo.build(name)[0])
    trees = [family.load(example) for example in examples]
    modes = ("none", "image_tokens", "within_image", SLIDING)
    made = {mode: tp.collate(trees, family=family, bidirectional=mode) for mode in modes}
    return {mode: row.to("cpu", torch.float64) for mode, row in made.items()}


RIGHT = {"gemma4": "none", "gemma4_vision": SLIDING}


@pytest.mark.parametrize("name", RIGHT)
def test_rows_whose_images_see_otherwise_than_those_of_the_model_are_rejected(name):
    model = tp.hf.prepare(copy.deepcopy(zoo.build(name)[1]))
    told = model.config.text_config.use_bidirectional_attention
    for mode, row in rows_of(name, pair(name)).items():
        if mode == RIGHT[name]:
            assert model(**row).loss.isfinite()
            continue
        with pytest.raises(AttentionError) as caught:
            model(**row)
        message = str(caught.value)
        assert f"use_bidirectional_attention={told!r}" in message
        assert f"made with bidirectional={mode!r}" in message
        assert f"pass bidirectional={RIGHT[name]!r}" in message


@pytest.mark.parametrize("name", RIGHT)
def test_rows_without_images_are_the_same_in_every_mode(name):
    model = tp.hf.prepare(copy.deepcopy(zoo.build(name)[1]))
    losses = {model(**row).loss.item() for row in rows_of(name, TEXT).values()}
    assert len(losses) == 1


def test_a_model_that_says_nothing_takes_one_mask_for_all_layers():
    model = tp.hf.prepare(copy.deepcopy(zoo.build("gemma3")[1]))
    rows = rows_of("gemma3", pair("gemma3"))
    assert model(**rows["within_image"]).loss.isfinite()
    with pytest.raises(AttentionError, match=f"one mask for all layers.*'{SLIDING}'"):
        model(**rows[SLIDING])


def test_gemma_4_unified_rejects_an_image_that_its_window_would_cut():
    processor, model = gemma4_unified(window=20)
    family = families.find(processor)
    tree = family.load(tp.Conversations(A, [image(1, 40, 60)], key="k"))
    model = tp.hf.prepare(model)
    row = tp.collate([tree], family=family).to("cpu", dtype=model.dtype)
    longest = row["treepack"].longest_image
    assert longest > 20
    with pytest.raises(AttentionError, match=rf"image of {longest} tokens.*window of 20"):
        model(**row)
    sliding = tp.collate([tree], family=family, bidirectional="within_image_sliding")
    with pytest.raises(AttentionError, match="needs bidirectional='within_image'"):
        model(**sliding.to("cpu", dtype=model.dtype))
