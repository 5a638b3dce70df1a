"""What `benches/step.py` measures: rows that stand for the mixture, models in proportion."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benches.common import sft_rows, step_models, step_ways

ROOT = Path(__file__).parents[2]
TOTAL, VOCABULARY = 2_048, 100
TINY = step_models.Shape(
    2, 32, 64, 2, 1, 16, VOCABULARY, TOTAL, step_models.Tower(2, 16, 32, 1, 16, 8)
)
# An image, text, and a video, each with its own number of crops and annotations.
EXAMPLES = [
    sft_rows.Example(4_000, 9, 3, 3_000),
    sft_rows.Example(600, 0, 1, 0),
    sft_rows.Example(4_000, 20, 2, 20 * sft_rows.FRAME),
]


@pytest.fixture(scope="module", params=[0, 1])
def drawn(request):
    return sft_rows.draw_all(TOTAL, VOCABULARY, "image_tokens", request.param)


@pytest.fixture
def step(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benches"))
    spec = importlib.util.spec_from_file_location("step", ROOT / "benches/step.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "step", module)
    spec.loader.exec_module(module)
    return module


def row():
    return sft_rows.lay_out(EXAMPLES, (0,), TOTAL, VOCABULARY, "image_tokens", TINY.images)


def test_the_rows_that_are_taken_have_the_mean_of_all(drawn):
    table = np.array([sft_rows.features(*each) for each in drawn])
    for n in (1, 2, 3, 4, 8):
        chosen = sft_rows.nearest_to_mean(table, n)
        off = np.abs(table[chosen].mean(0) / table.mean(0) - 1)
        assert len(set(chosen)) == n
        assert off[0] <= 0.05
        assert n < 3 or off.max() <= 0.05, dict(zip(sft_rows.FEATURES, off, strict=True))
        # One of each part: few annotations and many.
        assert np.all(np.diff(table[chosen, 0]) >= 0)


def test_rows_have_the_annotations_and_the_tokens_of_the_mixture(drawn):
    annotations = sum(sft_rows.annotations(batch) for _, batch in drawn)
    given = sum(example.branches for examples, _ in drawn for example in examples)
    assert 0.97 * given <= annotations <= given
    used = sum(batch["treepack"].mask.used for _, batch in drawn)
    tokens = sum(example.tokens for examples, _ in drawn for example in examples)
    assert used == pytest.approx(tokens * TOTAL / step_models.FULL, rel=0.02)


@pytest.mark.parametrize("name", ["slice", "small"])
def test_smaller_models_have_the_proportions_of_the_real_one(name):
    real, small = step_models.SHAPES["real"], step_models.SHAPES[name]
    scale = small.total / real.total
    for ratio in (
        lambda shape: shape.token_flops / shape.pair_flops,
        lambda shape: shape.crop_flops / shape.token_flops,
    ):
        assert ratio(small) == pytest.approx(scale * ratio(real), rel=0.02)


@pytest.mark.parametrize("name", ["slice", "small"])
def test_the_work_of_a_token_is_that_of_the_parameters(name):
    shape = step_models.SHAPES[name]
    model = step_models.build_vision(shape, torch.device("meta")).model
    linear = sum(p.numel() for p in model.language_model.layers.parameters() if p.dim() == 2)
    assert shape.token_flops == 2 * linear
    patches = shape.side**2
    tower = sum(p.numel() for p in model.vision_tower.parameters() if p.dim() == 2)
    tower -= model.vision_tower.positional_embedding.numel()
    pairs = 4 * shape.tower.layers * patches**2 * shape.tower.heads * shape.tower.head_size
    assert 2 * tower * patches + pairs == pytest.approx(shape.crop_flops, rel=0.15)
    assert 2 * tower * patches + pairs < shape.crop_flops


def test_each_annotation_alone_has_its_own_crops_and_all_have_all_targets():
    batch = row()
    parts = step_ways.unpadded(batch)
    assert [part.crops for part in parts] == [9, 9, 9, 0, 20, 20]
    assert sum(part.inputs["targets"].numel() for part in parts) == batch["targets"].numel()
    pixels = batch["pixel_values"]
    assert torch.equal(parts[0].inputs["pixel_values"], pixels[:9])
    assert torch.equal(parts[-1].inputs["pixel_values"], pixels[9:])
    for part in parts:
        patches = (part.inputs["input_ids"] == TINY.images.patch).sum()
        pooling = part.inputs.get("image_token_pooling", torch.empty(0, 9))
        assert len(pooling) == patches
        assert len(pooling) == 0 or pooling.max() < part.crops * TINY.images.patches


def test_a_padded_row_stands_for_the_annotations_of_its_example():
    parts = step_ways.padded(row())
    assert [(part.tokens, part.times, part.crops) for part in parts] == [
        (TOTAL, 3, 9),
        (TOTAL, 1, 0),
        (TOTAL, 2, 20),
    ]
    text = sft_rows.lay_out(EXAMPLES, (0,), TOTAL, VOCABULARY, "image_tokens")
    assert [(part.tokens, part.times) for part in step_ways.padded(text)] == [(TOTAL, 6)]


def test_rows_whose_padding_is_not_attended_have_the_pairs_of_the_path_alone():
    batch = row()
    for ours, part in zip(step_ways.skipping(batch), step_ways.padded(batch), strict=True):
        mask = ours.inputs["treepack"].mask
        n = sum(
            int(batch["treepack"].mask.node_end[node] - batch["treepack"].mask.node_start[node])
            for node in sft_rows.path(batch["treepack"].mask, part.leaf)
        )
        assert (mask.total, mask.used, ours.crops) == (TOTAL, n, part.crops)
        assert n * (n + 1) // 2 <= mask.area <= n * n
        for name in ("input_ids", "targets", "logits_to_keep", "mm_token_type_ids"):
            assert torch.equal(ours.inputs[name], part.inputs[name]), name


def test_all_ways_have_the_same_losses_and_wrong_images_are_seen(step, monkeypatch):
    torch.manual_seed(0)
    model = step.build_vision(TINY, torch.device("cpu"))
    results = step.measure(model, row(), rounds=1)
    assert list(results) == list(step.WAYS)
    assert results[step.PADDED].crops == results[step.UNPADDED].crops == 67
    assert results[step.OURS].crops == 29
    assert results[step.SKIPPING][2:5] == results[step.PADDED][2:5]

    from common import step_ways as ways

    images = ways._images

    def flipped(batch, example):
        found = images(batch, example)
        return {**found, "pixel_values": found["pixel_values"].flip(0)} if found else found

    monkeypatch.setattr(ways, "_images", flipped)
    with pytest.raises(AssertionError):
        step.measure(model, row(), rounds=1)


@pytest.mark.parametrize("mode", ["none", "image_tokens"])
def test_all_ways_of_a_text_model_have_the_same_losses(step, mode):
    torch.manual_seed(0)
    model = step.build_text(TINY, torch.device("cpu"))
    batch = sft_rows.lay_out(EXAMPLES, (0,), TOTAL, VOCABULARY, mode)
    results = step.measure(model, batch, rounds=1)
    assert [result.rows for result in results.values()] == [1, 1, 6, 6, 6]
    assert len(results[step.PADDED].losses) == 1
