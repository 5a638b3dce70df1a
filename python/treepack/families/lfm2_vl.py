"""LFM2-VL: tiles of patches, each padded to one length."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily


class Lfm2VL(ProcessorFamily):
    """LFM2-VL of transformers (``Lfm2VlForConditionalGeneration``)."""

    name = "lfm2_vl"
    processors: ClassVar[tuple[str, ...]] = ("Lfm2VlProcessor",)
    vision_cost = "tiles"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    }


FAMILY = Lfm2VL
