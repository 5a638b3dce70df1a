"""GLM-4.1V, 4.5V and 4.6V: native resolution, a time before each frame."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from treepack.families.base import Array
from treepack.families.grids import GridFamily

PIXELS, GRID = "pixel_values", "image_grid_thw"


class Glm4v(GridFamily):
    """GLM-4.1V, 4.5V and 4.6V of transformers (``Glm4vForConditionalGeneration`` and others).

    Frames of videos are given as images, which is what they are to the model; so a row may hold
    both.
    """

    name = "glm4v"
    processors: ClassVar[tuple[str, ...]] = ("Glm4vProcessor", "Glm46VProcessor")
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": (PIXELS, GRID)}
    frames_apart = True

    def recast(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """Patches and grids ``[1, h, w]`` of images and frames, in the order of their tokens."""
        if "pixel_values_videos" not in arrays:
            return arrays
        left = {
            1: iter(_cut(arrays.get(PIXELS), arrays.get(GRID))),
            2: iter(_cut(arrays["pixel_values_videos"], arrays["video_grid_thw"])),
        }
        types = arrays["mm_token_type_ids"][0]
        begins = np.flatnonzero(np.diff(types, prepend=0) * (types > 0))
        parts = [next(left[kind]) for kind in types[begins].tolist()]
        return {
            PIXELS: np.concatenate([patches for patches, _ in parts]),
            GRID: np.array([grid for _, grid in parts]),
            "mm_token_type_ids": np.minimum(arrays["mm_token_type_ids"], 1),
        }


def _cut(patches: Array | None, grids: Array | None) -> list[tuple[Array, list[int]]]:
    """Patches and grid of each image, or of each frame."""
    if patches is None or grids is None:
        return []
    each = [[1, h, w] for t, h, w in grids.tolist() for _ in range(t)]
    ends = np.cumsum([h * w for _, h, w in each])
    return list(zip(np.split(patches, ends[:-1]), each, strict=True))


FAMILY = Glm4v
