"""Gemma 4: native resolution in patches; image tokens see ahead where the model says so."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily


class Gemma4(ProcessorFamily):
    """Gemma 4 of transformers (``Gemma4ForConditionalGeneration``), without audio.

    Its checkpoints E2B and E4B are causal. Where ``use_bidirectional_attention`` is ``"vision"``,
    image tokens see ahead in layers with a sliding window, which the processor does not know: pass
    ``bidirectional="within_image_sliding"`` to `PackedDataset`. A row of the other kind is rejected
    by the model.
    """

    name = "gemma4"
    processors: ClassVar[tuple[str, ...]] = ("Gemma4Processor",)
    vision_cost = "images"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_position_ids"),
        "video": ("pixel_values_videos", "video_position_ids"),
    }


FAMILY = Gemma4
