"""ERNIE 4.5-VL: native resolution, experts of their own for image tokens, frames in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from treepack.families.base import Array, Int64
from treepack.families.grids import GridFamily

PAIR = 2
"""Frames of a video that become one grid of tokens."""


class Ernie45VL(GridFamily):
    """ERNIE 4.5-VL of transformers (``Ernie4_5_VLMoeForConditionalGeneration``)."""

    name = "ernie4_5_vl"
    processors: ClassVar[tuple[str, ...]] = ("Ernie4_5_VLMoeProcessor",)
    smallest: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "image": (32, 32),
        "video": (PAIR, 32, 32),
    }

    def root_positions(self, made: Mapping[str, Array]) -> Int64 | None:
        """Positions int64 ``[3, n]``, with a time for each pair of frames."""
        grids = made.get("video_grid_thw")
        if grids is not None:
            made = {**made, "video_grid_thw": grids // [PAIR, 1, 1]}
        return super().root_positions(made)


FAMILY = Ernie45VL
