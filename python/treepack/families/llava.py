"""LLaVA 1.5 and FastVLM: one view of each image."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily


class Llava(ProcessorFamily):
    """LLaVA 1.5 of transformers (``LlavaForConditionalGeneration``) and FastVLM.

    FastVLM (``FastVlmForConditionalGeneration``) has batch norms in its tower, which is to be in
    evaluation mode.
    """

    name = "llava"
    processors: ClassVar[tuple[str, ...]] = ("LlavaProcessor",)
    vision_cost = "images"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values",)}


FAMILY = Llava
