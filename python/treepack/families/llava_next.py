"""LLaVA-NeXT: crops of an image along the best of some shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from treepack.families.base import Array
from treepack.families.by_processor import ProcessorFamily


class LlavaNext(ProcessorFamily):
    """LLaVA-NeXT of transformers (``LlavaNextForConditionalGeneration``).

    Images with fewer crops than others of their example are padded to as many; padding counts.
    """

    name = "llava_next"
    processors: ClassVar[tuple[str, ...]] = ("LlavaNextProcessor",)
    vision_cost = "crops"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values", "image_sizes")}

    def units(self, arrays: Mapping[str, Array]) -> int:
        """Crops of all images, with those that pad."""
        pixels = arrays.get("pixel_values")
        return 0 if pixels is None else int(np.prod(pixels.shape[:2]))


FAMILY = LlavaNext
