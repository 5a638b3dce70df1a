"""Kimi K2.5: native resolution in patches, videos in chunks of a few frames with their times."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily


class KimiK25(ProcessorFamily):
    """Kimi K2.5 and K2.6 of transformers (``Kimi_K25ForConditionalGeneration``)."""

    name = "kimi_k25"
    processors: ClassVar[tuple[str, ...]] = ("Kimi_K25Processor",)
    vision_cost = "patches"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }
    not_inputs: ClassVar[tuple[str, ...]] = ("num_chunks_per_video",)


FAMILY = KimiK25
