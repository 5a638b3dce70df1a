"""Command A Vision: tiles of one size."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily


class Cohere2Vision(ProcessorFamily):
    """Command A Vision of transformers (``Cohere2VisionForConditionalGeneration``)."""

    name = "cohere2_vision"
    processors: ClassVar[tuple[str, ...]] = ("Cohere2VisionProcessor",)
    vision_cost = "tiles"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values",)}


FAMILY = Cohere2Vision
