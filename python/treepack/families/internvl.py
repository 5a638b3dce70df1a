"""InternVL: tiles of one size, frames of videos among them."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily


class InternVL(ProcessorFamily):
    """InternVL 3 and 3.5 of transformers (``InternVLForConditionalGeneration``)."""

    name = "internvl"
    processors: ClassVar[tuple[str, ...]] = ("InternVLProcessor",)
    vision_cost = "tiles"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values",)}

    def feature_ids(self) -> tuple[int, ...]:
        """The token that stands for a feature of images and videos alike."""
        return (self.token(self.processor.image_token),)


FAMILY = InternVL
