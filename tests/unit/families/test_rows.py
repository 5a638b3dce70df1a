"""The arrays and positions of a row."""

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import cases, tiny_models
from helpers.tiny_models import FAMILIES, example, film, find, media, photo, random_media, record
from treepack import errors
from treepack.families.qwen3_vl import rope_positions


@FAMILIES
def test_image_runs_are_the_tokens_that_the_processor_marks(name):
    family = find(name)
    for rng in cases.cases(20, f"image runs, {name}"):
        tree = family.load(media(*random_media(rng)))
        (types,) = family.processor.create_mm_token_type_ids([tree.tokens.tolist()])
        marked = np.zeros(len(tree.tokens), bool)
        for start, end, _ in tree.image_runs:
            assert not marked[start:end].any()
            marked[start:end] = True
        assert marked.tolist() == (np.array(types) > 0).tolist()
        assert tree.image_runs[:, 2].tolist() == list(range(len(tree.image_runs)))


def test_molmo2_rows_count_patches_through_and_mark_image_tokens():
    family = find("molmo2")
    trees = [family.load(media(*values)) for values in ([photo(1)], [film(2), photo(3)])]
    text = family.load(example(record("Hi", "Ho")))
    total = sum(tree.n_tokens for tree in (*trees, text)) + 5
    arrays = family.collate([trees[0], text, trees[1]], total)
    pooling = arrays["image_token_pooling"]
    crops = len(arrays["pixel_values"])
    assert crops == sum(tree.costs["crops"] for tree in trees)
    used = np.unique(pooling[pooling >= 0])
    assert used[-1] < crops * 16
    assert len(np.unique(used // 16)) == crops, "every crop is looked at"
    assert pooling.shape[1] == 9
    ids = np.concatenate([t.tokens for tree in (trees[0], text, trees[1]) for t, _ in tree.nodes()])
    (types,) = family.processor.create_mm_token_type_ids([ids.tolist()])
    assert arrays["mm_token_type_ids"][0, : len(ids)].tolist() == types
    assert not arrays["mm_token_type_ids"][0, len(ids) :].any()
    assert (pooling >= 0).any(1).sum() == (ids == family.patch).sum()


@FAMILIES
def test_a_row_of_texts_has_no_pixels(name):
    family = find(name)
    text = family.load(example(record("Hi", "Ho")))
    assert [key for key in family.collate([text], 50) if "pixel" in key or "grid" in key] == []


@FAMILIES
def test_collating_does_not_modify_the_trees(name):
    family = find(name)
    tree = family.load(media(photo(1), film(2)))
    before = {key: value.copy() for key, value in tree.media.items()}
    family.collate([tree, tree], 2 * tree.n_tokens)
    assert all(np.array_equal(tree.media[key], value) for key, value in before.items())


def test_trees_made_by_hand_that_the_model_would_misread_are_rejected():
    tree = find("qwen3_vl").load(media(photo(1)))
    tree.root_positions = None
    with pytest.raises(errors.FamilyError, match="example 'k' has images and no root_positions"):
        find("qwen3_vl").collate([tree], tree.n_tokens)
    with pytest.raises(
        errors.FamilyError, match=r"a tree has media.* lack \['image_token_pooling'"
    ):
        find("molmo2").collate([tp.MessageTree([1], media={"pixel_values": np.zeros(1)})], 1)


@pytest.mark.parametrize("value", [photo(1), film(1)])
@pytest.mark.parametrize(("mine", "theirs"), [("molmo2", "qwen3_vl"), ("qwen3_vl", "molmo2")])
def test_trees_of_another_family_are_named(mine, theirs, value):
    tree = find(theirs).load(media(value))
    pair = rf"example 'k' has media \[.*as family .* makes them; family '{mine}' takes"
    with pytest.raises(errors.FamilyError, match=pair):
        tp.collate([tree], family=find(mine))


@FAMILIES
def test_a_tree_may_carry_arrays_of_its_own_beside_the_media(name):
    family = find(name)
    tree = family.load(media(photo(1)))
    tree.media["mine"] = np.ones((2, 1))
    assert family.collate([tree, tree], 2 * tree.n_tokens)["mine"].shape == (4, 1)


def test_rope_positions_are_those_of_the_model():
    family = find("qwen3_vl")
    model = tiny_models.qwen3_vl_model().model
    for rng in cases.cases(40, "rope positions"):
        tree = family.load(media(*random_media(rng)))
        (types,) = family.processor.create_mm_token_type_ids([tree.tokens.tolist()])
        grids = {k: torch.from_numpy(v) for k, v in tree.media.items() if "grid" in k}
        ids = torch.from_numpy(tree.tokens)[None]
        right, _ = model.get_rope_index(ids, torch.tensor([types]), **grids)
        assert tree.root_positions.tolist() == right[:, 0].tolist()
        assert len(set(tree.root_positions[:, -1].tolist())) == 1, "a root ends in text"


def test_rope_positions_of_a_text_count_on():
    assert rope_positions(3, np.empty((0, 2), int), []).tolist() == [[0, 1, 2]] * 3


def test_qwen_takes_the_place_in_the_row_and_three_axes():
    family = find("qwen3_vl")
    three = np.arange(12).reshape(3, 4)
    for given, rope in ((three, three), (three[:1], three[[0, 0, 0]])):
        rows = family.position_ids(given)
        assert rows.shape == (4, 1, 4)
        assert rows[0, 0].tolist() == [0, 1, 2, 3]
        assert rows[1:, 0].tolist() == rope.tolist()
