"""Qwen3-VL: native resolution, one vision span for each pair of frames, positions on three axes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from treepack.errors import FamilyError
from treepack.families.base import Array, Float64, Int64, UInt8
from treepack.families.by_medium import MediumFamily
from treepack.families.chat_format import ChatFormat
from treepack.families.options import NO_OPTIONS, Options
from treepack.families.roots import LoadedRoot, Root, VisualTokens, token_runs
from treepack.families.row_inputs import Filler
from treepack.sources.media import cut
from treepack.sources.videos import Clip
from treepack.tree import MessageTree, example_name


class Qwen3VL(MediumFamily):
    """Qwen3-VL of transformers (``Qwen3VLForConditionalGeneration``).

    ``min_pixels`` and ``max_pixels`` of an image take the place of the processor's bounds. Those of
    a video are meant for each of its frames, within the processor's bound for all of them, as in
    qwen-vl-utils 0.0.14. Times of a clip are those of the film, as in its readers torchcodec (the
    default) and decord.

    The vision tower runs once for the images and once for the videos of a row.
    """

    name = "qwen3_vl"
    processors: ClassVar[tuple[str, ...]] = ("Qwen3VLProcessor",)
    vision_cost = "patches"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }
    image_options: ClassVar[tuple[str, ...]] = ("min_pixels", "max_pixels")
    video_options: ClassVar[tuple[str, ...]] = (
        *MediumFamily.video_options,
        "min_pixels",
        "max_pixels",
    )
    default_fps: float = 24.0

    def __init__(self, processor: Any, chat: ChatFormat | None = None) -> None:
        super().__init__(processor, chat)
        self.image_pad: int = self.token(processor.image_token)
        self.video_pad: int = self.token(processor.video_token)
        self.vision_start: int = self.token(processor.vision_start_token)
        self.vision_end: int = self.token(processor.vision_end_token)

    def measure_image(self, height: int, width: int, options: Options = NO_OPTIONS) -> VisualTokens:
        """One span of ``patches / merge ** 2`` image tokens."""
        image_processor = self.processor.image_processor
        if image_processor.do_resize:
            low, high = self._image_bounds(options)
            bounds = {"min_pixels": low, "max_pixels": high}
            patches = int(image_processor.get_number_of_image_patches(height, width, bounds))
        else:
            patches = _unresized(image_processor, height, width, options)
        span = self._span(self.image_pad, patches // image_processor.merge_size**2)
        return VisualTokens(span, np.array([[1, len(span) - 1]]), patches)

    def measure_video(
        self, clip: Clip, seconds: Float64, options: Options = NO_OPTIONS
    ) -> VisualTokens:
        """One span for each temporal patch, after its time in seconds, and a span around them.

        The outer one is the chat template's; the processor leaves it there since transformers 5.10.
        """
        video_processor = self.processor.video_processor
        times = patch_times(seconds, video_processor.temporal_patch_size)
        if video_processor.do_resize:
            size = {"size": self._video_size(len(seconds), options)}
            count = video_processor.get_num_of_video_patches
            patches = int(count(len(seconds), clip.height, clip.width, size))
        else:
            patches = len(times) * _unresized(video_processor, clip.height, clip.width, options)
        span = self._span(self.video_pad, patches // len(times) // video_processor.merge_size**2)
        pieces, runs, used = [np.array([self.vision_start])], [], 1
        for time in times:
            text = np.array(self.writer.text(f"<{time:.1f} seconds>"), np.int64)
            pieces += [text, span]
            runs.append((used + len(text) + 1, used + len(text) + len(span) - 1))
            used = runs[-1][1] + 1
        pieces.append(np.array([self.vision_end]))
        return VisualTokens(np.concatenate(pieces), np.array(runs), patches)

    def image_arrays(self, image: Any, options: Options = NO_OPTIONS) -> dict[str, Array]:
        """Patches float32 ``[n, 1536]`` and grid ``[1, 3]``."""
        image_processor = self.processor.image_processor
        size = {}
        if options or any(getattr(image_processor, name, None) for name in self.image_options):
            # The settings min_pixels and max_pixels would overrule the size, with a warning.
            image_processor = copy.copy(image_processor)
            image_processor.min_pixels = image_processor.max_pixels = None
            low, high = self._image_bounds(options)
            size = {"size": {"shortest_edge": low, "longest_edge": high}}
        made = image_processor([image], return_tensors="pt", **size)
        return {name: made[name].numpy() for name in ("pixel_values", "image_grid_thw")}

    def video_arrays(self, frames: UInt8, options: Options = NO_OPTIONS) -> dict[str, Array]:
        """Patches float32 ``[n, 1536]`` and grid ``[1, 3]``."""
        made = self.processor.video_processor(
            [frames],
            size=self._video_size(len(frames), options),
            do_sample_frames=False,
            input_data_format="channels_last",
            return_tensors="pt",
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

    def prompt_root(self, tokens: Int64, arrays: Mapping[str, Array]) -> LoadedRoot:
        """The root of a prompt as the processor made it, tokens and media."""
        names = [name for kind in self.media_names.values() for name in kind]
        media = {name: arrays[name] for name in names if name in arrays}
        merge = self.processor.image_processor.merge_size
        grids: dict[int, list[tuple[int, int]]] = {self.image_pad: [], self.video_pad: []}
        for pad, name in ((self.image_pad, "image_grid_thw"), (self.video_pad, "video_grid_thw")):
            for times, height, width in media.get(name, np.empty((0, 3), np.int64)).tolist():
                grids[pad] += [(height // merge, width // merge)] * times
        runs = token_runs(np.isin(tokens, list(grids)))
        left = {pad: iter(each) for pad, each in grids.items()}
        ordered = [next(left[int(tokens[start])]) for start, _, _ in runs.tolist()]
        positions = rope_positions(len(tokens), runs[:, :2], ordered)
        patches = sum(len(media[name]) for name, _ in self.media_names.values() if name in media)
        return LoadedRoot(Root(tokens, runs), media, positions, {self.vision_cost: patches})

    def collate(
        self, trees: Sequence[MessageTree], total: int, fill: bool | Collection[str] = False
    ) -> dict[str, Array]:
        """Patches and grids; a tree with images whose positions count from 0 is rejected."""
        arrays = super().collate(trees, total, fill)
        for tree in trees:
            if tree.media and tree.root_positions is None:
                raise FamilyError(
                    f"{cut(example_name(tree.key))} has images and no root_positions; image tokens "
                    "have positions on three axes, so load it with the family or use rope_positions"
                )
        return arrays

    def position_ids(self, positions: Int64) -> Int64:
        """Position ids int64 ``[4, 1, total]``: the place in the row, then time, height, width."""
        total = positions.shape[1]
        rope = np.broadcast_to(positions, (3, total))
        return np.concatenate([np.arange(total)[None], rope])[:, None]

    def smallest_medium(self, kind: str) -> Filler:
        """The patches of one image token."""
        is_image = kind == "image"
        processor = self.processor.image_processor if is_image else self.processor.video_processor
        merge, pad = processor.merge_size, self.image_pad if is_image else self.video_pad
        values = 3 * processor.temporal_patch_size * processor.patch_size**2
        patches, grid = self.media_names[kind]
        return Filler(
            np.array([pad]),
            {"tokens": 1, "patches": merge**2},
            {
                patches: np.zeros((merge**2, values), np.float32),
                grid: np.array([[1, merge, merge]]),
            },
        )

    def _image_bounds(self, options: Options) -> tuple[int, int]:
        """The least and the most pixels of an image: the options', else the processor's."""
        image_processor = self.processor.image_processor
        low = getattr(image_processor, "min_pixels", None) or image_processor.size["shortest_edge"]
        high = getattr(image_processor, "max_pixels", None) or image_processor.size["longest_edge"]
        least = options.get("min_pixels", min(low, options.get("max_pixels", low)))
        most = options.get("max_pixels", max(high, options.get("min_pixels", high)))
        return int(least), int(most)

    def _video_size(self, frames: int, options: Options) -> dict[str, int]:
        """The size that makes the video processor keep to the options, which are for a frame."""
        video_processor = self.processor.video_processor
        low, high = video_processor.size["shortest_edge"], video_processor.size["longest_edge"]
        is_capped = video_processor.cap_pixels_per_frame
        if "max_pixels" in options:
            most = int(options["max_pixels"])
            high = min(high, most * frames)
            # A processor that caps frames takes its lower bound for that of a frame, and 5 % more.
            low = min(low, int(most / 1.05) if is_capped else high)
        if "min_pixels" in options:
            if is_capped:
                raise ValueError(
                    "with cap_pixels_per_frame it keeps to no min_pixels of a video; remove one"
                )
            low = int(options["min_pixels"]) * frames
            high = max(low, high)
        return {"shortest_edge": low, "longest_edge": high}

    def _span(self, pad: int, n: int) -> Int64:
        return np.array([self.vision_start, *[pad] * n, self.vision_end])


def patch_times(seconds: Float64, depth: int) -> list[float]:
    """Seconds of each temporal patch: halfway between the first and the last of its frames.

    Args:
        seconds: float ``[T]``, times of the frames; the last one is repeated to fill a patch.
        depth: frames in a temporal patch.
    """
    padded = np.append(seconds, np.repeat(seconds[-1:], -len(seconds) % depth))
    patches = padded.reshape(-1, depth)
    middles: list[float] = ((patches[:, 0] + patches[:, -1]) / 2).tolist()
    return middles


def _unresized(processor: Any, height: int, width: int, options: Options) -> int:
    """Patches of an image, or of one temporal patch, that the processor leaves at its size."""
    sizes = ("min_pixels", "max_pixels")
    factor = processor.patch_size * processor.merge_size
    if any(name in options for name in sizes):
        raise ValueError(f"{' and '.join(sizes)} need do_resize, which is switched off")
    if height % factor or width % factor:
        raise ValueError(
            f"its size is {height} x {width}, and without do_resize both must be multiples of "
            f"{factor}"
        )
    return int(height // processor.patch_size) * int(width // processor.patch_size)


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
