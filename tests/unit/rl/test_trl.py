"""What TRL hands over is taken apart by sample, and what is not known is rejected by name."""

from __future__ import annotations

import pytest
import torch
from treepack import errors
from treepack.rl.trl_media import media_by_sample

pytest.importorskip("trl")

PROMPTS = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]]).bool()


def split(**media):
    return media_by_sample(media, PROMPTS)


def test_patches_are_split_by_grid():
    grids = torch.tensor([[1, 2, 2], [1, 2, 4], [1, 4, 4]])
    found = split(pixel_values=torch.arange(28.0), image_grid_thw=grids, num_images=[2, 0, 1])
    assert [each and each["pixel_values"].tolist() for each in found] == [
        list(range(12)),
        None,
        list(range(12, 28)),
    ]
    assert found[0]["image_grid_thw"].tolist() == grids[:2].tolist()


def test_images_tiles_and_samples_are_split_each_by_its_own_count():
    found = split(pixel_values=torch.arange(4), num_images=[1, 2, 1])
    assert [each["pixel_values"].tolist() for each in found] == [[0], [1, 2], [3]]
    found = split(pixel_values=torch.arange(6), num_images=[1, 1, 1], num_tiles=[3, 1, 2])
    assert [each["pixel_values"].tolist() for each in found] == [[0, 1, 2], [3], [4, 5]]
    found = split(pixel_values=torch.arange(3), num_images=[2, 2, 2])
    assert [each["pixel_values"].tolist() for each in found] == [[0], [1], [2]]


def test_types_of_tokens_are_those_of_the_prompt_without_padding():
    types = torch.tensor([[9, 1, 2, 0], [3, 4, 5, 0], [9, 9, 6, 0]])
    found = split(pixel_values=torch.zeros(3), token_type_ids=types)
    assert [each["token_type_ids"].tolist() for each in found] == [[[1, 2]], [[3, 4, 5]], [[6]]]


def test_text_has_no_media():
    assert split(pixel_values=None, token_type_ids=torch.zeros(3, 4)) is None


def test_what_does_not_belong_together_is_named():
    with pytest.raises(errors.BatchError, match=r"pixel_values has 5 entries .* batch 4"):
        split(pixel_values=torch.arange(5), num_tiles=[2, 1, 1], num_images=[1, 1, 1])
    with pytest.raises(errors.BatchError, match=r"\['audio'\], which are not known"):
        split(audio=torch.zeros(3))


def test_a_version_of_trl_that_works_otherwise_is_named():
    from treepack.rl import grpo

    class Changed:
        _generate_single_turn = _generate_and_score_completions = _prepare_inputs = None

        def _get_per_token_logps_and_entropies(self, model, input_ids, voices):
            """What it might become."""

    Changed.__module__ = "trl.trainer"
    with pytest.raises(errors.BatchError, match=r"passes \['voices'\].*TRL 1\.16"):
        grpo._check_version(type("Ours", (grpo.TreeGRPO, Changed), {}))
    missing = type("Missing", (), {"__module__": "trl.trainer"})
    with pytest.raises(errors.BatchError, match=r"has no .*_generate_single_turn"):
        grpo._check_version(missing)
