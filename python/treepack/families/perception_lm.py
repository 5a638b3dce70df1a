"""PerceptionLM: tiles of one size and a view of the whole."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.base import Array
from treepack.families.by_processor import ProcessorFamily
from treepack.families.joins import Join


class PerceptionLM(ProcessorFamily):
    """PerceptionLM of transformers (``PerceptionLMForConditionalGeneration``)."""

    name = "perception_lm"
    processors: ClassVar[tuple[str, ...]] = ("PerceptionLMProcessor",)
    vision_cost = "tiles"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pixel_values",),
        "video": ("pixel_values_videos",),
    }
    joins: ClassVar[dict[str, Join]] = {
        "pixel_values": Join(axis=1),
        "pixel_values_videos": Join(axis=1),
    }

    def recast(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """Tiles of all images in one, ``[1, tiles, 3, h, w]``: the model looks at each alone."""
        return {
            name: array.reshape(1, -1, *array.shape[2:]) if name in self.joins else array
            for name, array in arrays.items()
        }


FAMILY = PerceptionLM
