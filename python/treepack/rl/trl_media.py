"""The images of a batch of TRL's, by sample; as the processor makes them of one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from treepack.errors import BatchError

if TYPE_CHECKING:
    from torch import Tensor

COUNTS = ("num_images", "num_tiles")
PER_IMAGE = ("image_grid_thw", "image_sizes", "image_position_ids")
PER_TILE = ("spatial_shapes",)
PIXELS = ("pixel_values", "pixel_attention_mask")
PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
KNOWN = (*COUNTS, *PER_IMAGE, *PER_TILE, *PIXELS, *PER_TOKEN)
"""What TRL hands to the function that computes log-probabilities, beside tokens."""


def media_by_sample(
    media: Mapping[str, Any], prompt_mask: Tensor
) -> list[dict[str, Tensor] | None] | None:
    """What the processor made of the images of each prompt.

    Args:
        media: arguments by the names of `KNOWN`; those that are ``None`` count as not given.
        prompt_mask: bool ``[B, P]``, which tokens of the batch are prompts and no padding.

    Returns:
        For each sample its arrays, or ``None`` for one without images; ``None`` if none has any.

    Raises:
        BatchError: an argument that is not known, or one whose entries are not those of the batch.
    """
    given = {name: value for name, value in media.items() if value is not None}
    unknown = sorted(given.keys() - set(KNOWN))
    if unknown:
        raise BatchError(
            f"TRL hands over {unknown}, which are not known here; it changed since the version "
            "that this trainer was written for, so use that version or TRL's own trainer"
        )
    if "pixel_values" not in given:
        return None
    size = len(prompt_mask)
    images = list(given.get("num_images") or [1] * size)
    parts = {
        name: _split(name, given[name], _sizes(name, given, images, size))
        for name in given
        if name not in (*COUNTS, *PER_TOKEN)
    }
    width = prompt_mask.shape[1]
    for name in set(PER_TOKEN) & given.keys():
        rows = zip(given[name][:, :width], prompt_mask, strict=True)
        parts[name] = [row[kept][None] for row, kept in rows]
    return [
        {name: values[n] for name, values in parts.items()} if images[n] else None
        for n in range(size)
    ]


def _sizes(name: str, given: Mapping[str, Any], images: list[int], size: int) -> list[int]:
    """How many entries of an argument each sample has."""
    if name in PER_IMAGE:
        return images
    is_tiled = "num_tiles" in given and (
        name != "pixel_attention_mask" or "spatial_shapes" in given
    )
    if name in PER_TILE or (is_tiled and "image_grid_thw" not in given):
        return list(given["num_tiles"])
    pixels = given[name]
    if name == "pixel_values" and "image_grid_thw" in given:
        patches = given["image_grid_thw"].prod(-1)
        return [int(part.sum()) for part in patches.split(images)]
    if name == "pixel_values" and len(pixels) == sum(images) != size:
        return images
    return [1] * size if len(pixels) == size else images


def _split(name: str, values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    if sum(sizes) != len(values):
        raise BatchError(
            f"{name} has {len(values)} entries and the samples of the batch {sum(sizes)}; images "
            "and prompts do not belong together"
        )
    return list(torch.split(values, list(sizes)))
