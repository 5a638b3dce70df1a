"""MiniCPM-V 4.6: slices of an image, side by side."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily
from treepack.families.joins import Join


class MiniCPMV(ProcessorFamily):
    """MiniCPM-V 4.6 of transformers (``MiniCPMV4_6ForConditionalGeneration``)."""

    name = "minicpm_v"
    processors: ClassVar[tuple[str, ...]] = ("MiniCPMV4_6Processor",)
    vision_cost = "pixels"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values",)}
    joins: ClassVar[dict[str, Join]] = {
        "pixel_values": Join(axis=3),
        "pixel_values_videos": Join(axis=3),
    }


FAMILY = MiniCPMV
