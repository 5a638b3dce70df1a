"""Position ids on three axes: time, height and width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from treepack.errors import FamilyError
from treepack.families.by_processor import ProcessorFamily
from treepack.sources.media import cut
from treepack.tree import MessageTree, example_name

Int64 = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


def grid_positions(types: Int64, grids: Mapping[int, Iterable[Sequence[float]]]) -> Int64:
    """Position ids of a root whose image tokens lie on grids.

    Text counts on, equally on all axes. A medium of ``t x h x w`` tokens that begins at ``p`` has
    times ``p + interval * (0 ... t - 1)``, heights ``p ... p + h - 1`` and widths
    ``p ... p + w - 1``; what follows it begins at ``p + max(h, w)``.

    Args:
        types: int ``[n]``, 0 for text and the kind of medium for its tokens. Each stretch of one
            kind is one medium.
        grids: for each kind its media in order, as ``(t, h, w, interval)``.

    Returns:
        int64 ``[3, n]``.

    Source:
        Multimodal rotary embedding, Qwen2-VL, arXiv 2409.12191; ``get_rope_index`` of transformers.

    Example:
        >>> types = np.array([0, 1, 1, 1, 1, 0])
        >>> grid_positions(types, {1: [(1, 2, 2, 1)]}).tolist()
        [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]]
    """
    left = {kind: iter(each) for kind, each in grids.items()}
    edges = np.flatnonzero(np.diff(types)) + 1
    pieces, place = [], 0
    for stretch in np.split(types, edges):
        kind, n = int(stretch[0]), len(stretch)
        if kind == 0:
            pieces.append(np.broadcast_to(place + np.arange(n), (3, n)))
            place += n
            continue
        times, rows, columns, interval = next(left[kind])
        grid = np.indices((int(times), int(rows), int(columns))).reshape(3, -1)
        grid[0] = (grid[0] * interval).astype(np.int64)
        pieces.append(place + grid)
        place += int(max(rows, columns))
    return np.concatenate(pieces, axis=1)


def on_three_axes(positions: Int64) -> Int64:
    """Position ids int64 ``[3, 1, total]`` of a row, from its positions on three axes or on one."""
    return np.broadcast_to(positions, (3, positions.shape[1]))[:, None].copy()


class GridFamily(ProcessorFamily):
    """A family whose position ids have three axes.

    Attributes:
        frames_apart: whether each frame of a video is a stretch of its own, with text before it.
    """

    vision_cost = "patches"
    media_names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }
    frames_apart: ClassVar[bool] = False

    @property
    def merge(self) -> int:
        """Patches on each side of an image token."""
        return int(self.processor.image_processor.merge_size)

    def intervals(self, made: Mapping[str, Array]) -> Sequence[float]:
        """How far apart the frames of each video are, in positions."""
        return [1.0] * len(made.get("video_grid_thw", ()))

    def root_positions(self, made: Mapping[str, Array]) -> Int64 | None:
        """Positions int64 ``[3, n]``; a root without media counts from 0."""
        types = made.get("mm_token_type_ids")
        if types is None:
            return None
        images = [(t, h // self.merge, w // self.merge, 1) for t, h, w in _rows(made, "image")]
        videos: list[tuple[float, ...]] = []
        for (t, h, w), interval in zip(_rows(made, "video"), self.intervals(made), strict=True):
            size = h // self.merge, w // self.merge
            videos += [(1, *size, 1)] * t if self.frames_apart else [(t, *size, interval)]
        return grid_positions(types[0], {1: images, 2: videos})

    def position_ids(self, positions: Int64) -> Int64:
        """Position ids int64 ``[3, 1, total]``."""
        return on_three_axes(positions)

    def collate(
        self, trees: Sequence[MessageTree], total: int, fill: Any = False
    ) -> dict[str, Array]:
        """Patches and grids; a tree with images whose positions count from 0 is rejected."""
        for tree in trees:
            if tree.media and tree.root_positions is None:
                raise FamilyError(
                    f"{cut(example_name(tree.key))} has images and no root_positions; image tokens "
                    "have positions on three axes, so load it with the family"
                )
        return super().collate(trees, total, fill)


def _rows(made: Mapping[str, Array], kind: str) -> list[list[int]]:
    found = made.get(f"{kind}_grid_thw")
    return [] if found is None else found.tolist()
