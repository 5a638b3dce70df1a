"""Mistral Small 3 and Pixtral: native resolution, each row of patches ended by a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from treepack.families.base import Array
from treepack.families.by_processor import ProcessorFamily


class Mistral3(ProcessorFamily):
    """Mistral 3 of transformers (``Mistral3ForConditionalGeneration``), also Pixtral in LLaVA."""

    name = "mistral3"
    processors: ClassVar[tuple[str, ...]] = ("PixtralProcessor",)
    vision_cost = "patches"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values", "image_sizes")}

    def units(self, arrays: Mapping[str, Array]) -> int:
        """Patches of all images, without those that pad them to one size."""
        sizes = arrays.get("image_sizes", np.empty((0, 2), np.int64))
        side = self.processor.patch_size
        return int((sizes // side).prod(axis=1).sum())


FAMILY = Mistral3
