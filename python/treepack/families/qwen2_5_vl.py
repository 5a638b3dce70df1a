"""Qwen2.5-VL: as Qwen2-VL, with times of videos in positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from treepack.families.base import Array
from treepack.families.grids import GridFamily


class Qwen25VL(GridFamily):
    """Qwen2.5-VL of transformers (``Qwen2_5_VLForConditionalGeneration``).

    Attributes:
        tokens_per_second: positions that a second of a video takes, a number of the model's vision
            config that its processor does not know: 2 in all checkpoints of Qwen.
    """

    name = "qwen2_5_vl"
    processors: ClassVar[tuple[str, ...]] = ("Qwen2_5_VLProcessor",)
    not_inputs: ClassVar[tuple[str, ...]] = ("second_per_grid_ts",)
    tokens_per_second: ClassVar[float] = 2.0

    def intervals(self, made: Mapping[str, Array]) -> Sequence[float]:
        """Positions between the temporal patches of each video."""
        seconds = made.get("second_per_grid_ts", np.empty(0))
        return [float(each) * self.tokens_per_second for each in seconds]


FAMILY = Qwen25VL
