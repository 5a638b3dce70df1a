"""The vision tower runs on every row that is filled, and nothing else changes."""

import copy
import functools

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import tiny_models
from helpers.tiny_models import FAMILIES, example, film, find, media, photo, record
from treepack import errors
from treepack.families.base import Family

MODELS = {"molmo2": tiny_models.molmo2_model, "qwen3_vl": tiny_models.qwen3_vl_model}
PADDING = 7


@functools.cache
def model(name):
    return tp.hf.prepare(MODELS[name]())


def rows(family):
    texts = [family.load(example(record("Hi", "Ho"))), family.load(example(record("Why?", "So.")))]
    image, video = family.load(media(photo(1))), family.load(media(film(2)))
    return {
        "texts": texts,
        "images": [texts[0], image],
        "videos": [video, texts[1]],
        "both": [image, video],
    }


def batch_of(family, trees, fill):
    """A row as the collator makes it, and what `fill` adds."""
    used = sum(tree.n_tokens for tree in trees)
    batch = tp.collate(trees, family=family, total=used + PADDING)
    for name, array in family.collate(trees, used + PADDING, fill=fill).items():
        batch[name] = torch.from_numpy(array)
    tokens = family.fill_tokens(trees, fill)
    batch["input_ids"][0, used : used + len(tokens)] = torch.from_numpy(tokens)
    return batch


def outcome(name, batch):
    """Loss, gradients, and how often the tower ran."""
    packed, runs = model(name), []
    tower = packed.model.vision_tower if name == "molmo2" else packed.model.visual
    hook = tower.register_forward_hook(lambda *_: runs.append(1))
    loss = packed(**batch).loss
    loss.backward()
    hook.remove()
    found = {n: None if p.grad is None else p.grad.clone() for n, p in packed.named_parameters()}
    packed.zero_grad()
    return loss.item(), found, len(runs)


@FAMILIES
@pytest.mark.parametrize("kind", ["texts", "images", "videos", "both"])
def test_loss_and_gradients_stay_to_the_bit(name, kind):
    family = find(name)
    trees = rows(family)[kind]
    loss, gradients, runs = outcome(name, batch_of(family, trees, False))
    filled_loss, filled, filled_runs = outcome(name, batch_of(family, trees, True))
    assert filled_loss == loss
    for parameter, gradient in gradients.items():
        if gradient is None:
            assert not filled[parameter].any(), parameter
        else:
            assert torch.equal(filled[parameter], gradient), parameter
    assert all(gradient is not None for gradient in filled.values())
    assert filled_runs == len(family.media_names)
    assert runs == {"texts": 0, "both": filled_runs}.get(kind, 1)


def test_only_the_kinds_that_are_named_are_filled():
    family = find("qwen3_vl")
    kinds = rows(family)
    tree = kinds["texts"][0]
    arrays = family.collate([tree], tree.n_tokens + 1, fill=["image"])
    assert list(arrays) == ["pixel_values", "image_grid_thw"]
    assert arrays["image_grid_thw"].tolist() == [[1, 2, 2]]
    assert family.fill_tokens([tree], ["image"]).tolist() == [family.image_pad]
    assert family.fill_tokens([tree], True).tolist() == [family.image_pad, family.video_pad]
    assert family.fill_tokens(kinds["images"], True).tolist() == [family.video_pad]
    assert family.fill_tokens(kinds["both"], True).tolist() == []
    assert family.fill_tokens([tree], False).tolist() == []
    with pytest.raises(errors.FamilyError, match="kind 'video', and fill names only image"):
        family.collate(kinds["videos"], 10**4, fill=["image"])
    with pytest.raises(errors.FamilyError, match="fill names 'sound'; it takes image, video"):
        family.collate([tree], 10**4, fill=["sound"])


@FAMILIES
def test_what_the_packer_keeps_free_is_what_any_row_may_need(name):
    family = find(name)
    kinds = len(family.media_names)
    patches = 1 if name == "molmo2" else 4
    cost = {"tokens": kinds, family.vision_cost: kinds * patches}
    assert family.fill_cost(True) == cost
    assert not any(family.fill_cost(False).values())
    for trees in rows(family).values():
        used = sum(tree.n_tokens for tree in trees)
        needed = len(family.fill_tokens(trees, True))
        assert needed <= cost["tokens"]
        family.collate(trees, used + needed, fill=True)
        if needed:
            with pytest.raises(errors.FamilyError, match=rf"needs {needed} of padding"):
                family.collate(trees, used + needed - 1, fill=True)
    for kind in family.media_names:
        filler = family.smallest_medium(kind)
        assert len(filler.tokens) == filler.cost["tokens"]
        assert len(next(iter(filler.arrays.values()))) == filler.cost[family.vision_cost]
        assert not any(filler.arrays[family.media_names[kind][0]].ravel())


def test_the_smallest_medium_of_molmo2_is_marked_as_an_image():
    family = find("molmo2")
    trees = rows(family)["texts"]
    used = sum(tree.n_tokens for tree in trees)
    arrays = family.collate(trees, used + 3, fill=True)
    assert arrays["mm_token_type_ids"].tolist() == [[0] * used + [1, 0, 0]]
    assert arrays["image_token_pooling"].tolist() == [[0, -1, -1, -1]]
    assert arrays["image_grids"].tolist() == [[1, 1, 0, 0]]
    assert family.fill_tokens(trees, True).tolist() == [family.patch]


@FAMILIES
def test_without_fill_a_row_is_what_it_was(name):
    family = find(name)
    for trees in rows(family).values():
        plain = family.collate(trees, 5000)
        for fill in (False, (), []):
            again = family.collate(trees, 5000, fill=fill)
            assert list(again) == list(plain)
            assert all(np.array_equal(again[key], plain[key]) for key in plain)


def test_a_family_that_declares_no_smallest_medium_says_so(monkeypatch):
    family = copy.copy(find("molmo2"))
    monkeypatch.setattr(type(family), "smallest_medium", Family.smallest_medium)
    tree = family.load(example(record("Hi", "Ho")))
    with pytest.raises(errors.FamilyError, match="'molmo2' declares no smallest image"):
        family.collate([tree], 500, fill=True)
