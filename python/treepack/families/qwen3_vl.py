"""Qwen3-VL: native resolution, one vision span for each pair of frames, positions on three axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treepack.errors import FamilyError
from treepack.families.base import Array, Family, Int64, Root, UInt8, VisualTokens
from treepack.families.chat_format import ChatFormat
from treepack.sources.media import Clip
from treepack.tree import MessageTree, example_name


class Qwen3VL(Family):
    """Qwen3-VL of transformers (``Qwen3VLForConditionalGeneration``)."""

    name = "qwen3_vl"
    processors = ("Qwen3VLProcessor",)
    vision_cost = "patches"
    default_fps = 24.0

    def __init__(self, processor: Any, chat: ChatFormat | None = None) -> None:
        super().__init__(processor, chat)
        self.image_pad = self.token(processor.image_token)
        self.video_pad = self.token(processor.video_token)
        self.vision_start = self.token(processor.vision_start_token)
        self.vision_end = self.token(processor.vision_end_token)

    def measure_image(self, height: int, width: int) -> VisualTokens:
        """One span of ``patches / merge ** 2`` image tokens."""
        image_processor = self.processor.image_processor
        patches = int(image_processor.get_number_of_image_patches(height, width))
        span = self._span(self.image_pad, patches // image_processor.merge_size**2)
        return VisualTokens(span, np.array([[1, len(span) - 1]]), patches)

    def measure_video(self, clip: Clip, frames: Int64) -> VisualTokens:
        """One span for each temporal patch, after its time in seconds, and a span around them.

        The outer one is the chat template's; the processor leaves it there since transformers 5.10.
        """
        video_processor = self.processor.video_processor
        depth = video_processor.temporal_patch_size
        patches = int(
            video_processor.get_num_of_video_patches(len(frames), clip.height, clip.width, {})
        )
        times = frame_times(frames, clip.fps or self.default_fps, depth)
        span = self._span(self.video_pad, patches // len(times) // video_processor.merge_size**2)
        pieces, runs, used = [np.array([self.vision_start])], [], 1
        for time in times:
            text = np.array(self.writer.text(f"<{time:.1f} seconds>"), np.int64)
            pieces += [text, span]
            runs.append((used + len(text) + 1, used + len(text) + len(span) - 1))
            used = runs[-1][1] + 1
        pieces.append(np.array([self.vision_end]))
        return VisualTokens(np.concatenate(pieces), np.array(runs), patches)

    def image_arrays(self, image: Any) -> dict[str, Array]:
        """Patches float32 ``[n, 1536]`` and grid ``[1, 3]``."""
        made = self.processor.image_processor([image], return_tensors="pt")
        return {name: made[name].numpy() for name in ("pixel_values", "image_grid_thw")}

    def video_arrays(self, frames: UInt8) -> dict[str, Array]:
        """Patches float32 ``[n, 1536]`` and grid ``[1, 3]``."""
        made = self.processor.video_processor(
            [frames], do_sample_frames=False, input_data_format="channels_last", return_tensors="pt"
        )
        return {name: made[name].numpy() for name in ("pixel_values_videos", "video_grid_thw")}

    def root_positions(self, root: Root, parts: Sequence[Mapping[str, Array]]) -> Int64:
        """Positions int64 ``[3, n]``; the root ends in text, so all axes go on from one number."""
        merge = self.processor.image_processor.merge_size
        grids = []
        for part in parts:
            key = "image_grid_thw" if "image_grid_thw" in part else "video_grid_thw"
            times, height, width = part[key][0].tolist()
            grids += [(height // merge, width // merge)] * times
        return rope_positions(len(root.tokens), root.runs[:, :2], grids)

    def collate(self, trees: Sequence[MessageTree], total: int) -> dict[str, Array]:
        """Patches and grids; a tree with images whose positions count from 0 is rejected."""
        for tree in trees:
            if tree.media and tree.root_positions is None:
                raise FamilyError(
                    f"{example_name(tree.key)} has images and no root_positions; image tokens have "
                    "positions on three axes, so load it with the family or use rope_positions"
                )
        return super().collate(trees, total)

    def position_ids(self, positions: Int64) -> Int64:
        """Position ids int64 ``[4, 1, total]``: the place in the row, then time, height, width."""
        total = positions.shape[1]
        rope = np.broadcast_to(positions, (3, total))
        return np.concatenate([np.arange(total)[None], rope])[:, None]

    def _span(self, pad: int, n: int) -> Int64:
        return np.array([self.vision_start, *[pad] * n, self.vision_end])


def frame_times(frames: Int64, fps: float, depth: int) -> list[float]:
    """Seconds of each temporal patch: halfway between the first and the last of its frames.

    Args:
        frames: int ``[T]``, numbers of the frames; the last one is repeated to fill a patch.
        fps: frames a second.
        depth: frames in a temporal patch.
    """
    padded = np.append(frames, np.repeat(frames[-1:], -len(frames) % depth)) / fps
    patches = padded.reshape(-1, depth)
    middles: list[float] = ((patches[:, 0] + patches[:, -1]) / 2).tolist()
    return middles


def rope_positions(n: int, runs: Int64, grids: Sequence[tuple[int, int]]) -> Int64:
    """Position ids on the axes time, height and width.

    Text counts on, equally on all axes. An image of ``h x w`` tokens that begins at ``p`` has time
    ``p``, heights ``p ... p + h - 1`` and widths ``p ... p + w - 1``; what follows it begins at
    ``p + max(h, w)``.

    Args:
        n: tokens.
        runs: int ``[R, 2]``, where the image tokens stand: one run for each grid, in order.
        grids: rows and columns of the tokens of each run.

    Returns:
        int64 ``[3, n]``.

    Example:
        >>> rope_positions(6, np.array([[1, 5]]), [(2, 2)]).tolist()
        [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]]
    """
    positions = np.empty((3, n), np.int64)
    used, place = 0, 0
    for (start, end), (rows, columns) in zip(runs.tolist(), grids, strict=True):
        positions[:, used:start] = place + np.arange(start - used)
        place += start - used
        grid = np.indices((1, rows, columns)).reshape(3, -1)
        positions[:, start:end] = place + grid
        used, place = end, place + max(rows, columns)
    positions[:, used:] = place + np.arange(n - used)
    return positions


FAMILY = Qwen3VL
