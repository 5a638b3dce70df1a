"""LLaVA-OneVision: crops of an image, or one view of each of several; frames of videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from treepack.families.base import Array
from treepack.families.by_processor import ProcessorFamily
from treepack.families.joins import Join


class LlavaOnevision(ProcessorFamily):
    """LLaVA-OneVision of transformers (``LlavaOnevisionForConditionalGeneration``).

    Videos of a row need equally many frames: sample a fixed number of them.
    """

    name = "llava_onevision"
    processors: ClassVar[tuple[str, ...]] = ("LlavaOnevisionProcessor",)
    vision_cost = "crops"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_sizes", "batch_num_images"),
        "video": ("pixel_values_videos",),
    }
    joins: ClassVar[dict[str, Join]] = {"pixel_values_videos": Join(pads=False)}

    def units(self, arrays: Mapping[str, Array]) -> int:
        """Crops of all images, with those that pad, and frames of all videos."""
        pixels = [arrays[n] for n in ("pixel_values", "pixel_values_videos") if n in arrays]
        return sum(int(np.prod(array.shape[:2])) for array in pixels)


FAMILY = LlavaOnevision
