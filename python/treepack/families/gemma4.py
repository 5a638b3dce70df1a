"""Gemma 4: native resolution in patches; causal layers."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily


class Gemma4(ProcessorFamily):
    """Gemma 4 of transformers (``Gemma4ForConditionalGeneration``), without audio.

    Its checkpoints E2B and E4B are causal; where ``use_bidirectional_attention`` is ``"vision"``,
    full and sliding layers see different tokens, and ``tp.hf.prepare`` rejects the model.
    """

    name = "gemma4"
    processors = ("Gemma4Processor",)
    vision_cost = "images"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_position_ids"),
        "video": ("pixel_values_videos", "video_position_ids"),
    }


FAMILY = Gemma4
