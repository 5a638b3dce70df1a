"""SmolVLM and Idefics 3: tiles of one size and a view of the whole."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily
from treepack.families.joins import Join


class SmolVLM(ProcessorFamily):
    """SmolVLM of transformers (``SmolVLMForConditionalGeneration``); frames of videos are tiles."""

    name = "smolvlm"
    processors: ClassVar[tuple[str, ...]] = ("SmolVLMProcessor",)
    vision_cost = "tiles"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "pixel_attention_mask")
    }
    joins: ClassVar[dict[str, Join]] = {
        "pixel_values": Join(axis=1),
        "pixel_attention_mask": Join(axis=1),
    }


FAMILY = SmolVLM
