"""Qwen2-VL: native resolution, positions on three axes."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.grids import GridFamily


class Qwen2VL(GridFamily):
    """Qwen2-VL of transformers (``Qwen2VLForConditionalGeneration``)."""

    name = "qwen2_vl"
    processors: ClassVar[tuple[str, ...]] = ("Qwen2VLProcessor",)


FAMILY = Qwen2VL
