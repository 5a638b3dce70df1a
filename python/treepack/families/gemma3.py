"""Gemma 3: crops of one size; the tokens of an image see each other."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily
from treepack.options import Bidirectional


class Gemma3(ProcessorFamily):
    """Gemma 3 of transformers (``Gemma3ForConditionalGeneration``)."""

    name = "gemma3"
    processors: ClassVar[tuple[str, ...]] = ("Gemma3Processor",)
    vision_cost = "crops"
    bidirectional: ClassVar[Bidirectional] = "within_image"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values",)}

    def feature_ids(self) -> tuple[int, ...]:
        """The tokenizer's image token: the processor's begins an image."""
        return (int(self.tokenizer.image_token_id),)


FAMILY = Gemma3
