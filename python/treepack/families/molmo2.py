"""Molmo2: crops of 378 pixels, pooled; all image tokens of an example see each other."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from treepack.errors import FamilyError
from treepack.families.base import Array, Float64, Int64, UInt8
from treepack.families.by_medium import MediumFamily
from treepack.families.chat_format import ChatFormat, token_id
from treepack.families.options import NO_OPTIONS, Options
from treepack.families.roots import LoadedRoot, Root, VisualTokens, token_runs
from treepack.families.row_inputs import Filler
from treepack.options import Bidirectional
from treepack.sources.conversations import Conversations
from treepack.sources.videos import Clip
from treepack.tree import MessageTree

POOLING = "image_token_pooling"


class Molmo2(MediumFamily):
    """Molmo2 of transformers (``Molmo2ForConditionalGeneration``).

    A row may hold images and videos: videos are given as images whose grid is
    ``[frames * rows, columns, 0, 0]``, which is what the model does with them itself. So the vision
    tower runs once for a row, whatever it holds, and one smallest medium fills a row without any.

    Times of a clip count from its start, as in AI2's loaders (molmo-utils 0.0.1).
    """

    name = "molmo2"
    processors: ClassVar[tuple[str, ...]] = ("Molmo2Processor",)
    vision_cost = "crops"
    bidirectional: ClassVar[Bidirectional] = "image_tokens"
    media_first = True
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pixel_values", POOLING, "image_grids")
    }
    image_options: ClassVar[tuple[str, ...]] = ("max_crops",)
    clip_counts_from_zero = True

    def __init__(self, processor: Any, chat: ChatFormat | None = None) -> None:
        super().__init__(processor, chat)
        tokenizer = processor.tokenizer
        bos = tokenizer.bos_token_id
        self.start: list[int] = [tokenizer.eos_token_id if bos is None else bos]
        self.patch: int = self.token("<im_patch>")
        self.column: int = self.token("<im_col>")
        self.image_end: int = self.token("<im_end>")
        self.image_start: int = self.token("<im_start>")
        # Only some settings need it.
        self.low_start: int | None = token_id(tokenizer, "<low_res_im_start>")

    @property
    def default_fps(self) -> float:
        """The rate that the processor assumes."""
        video_processor = self.processor.video_processor
        return float(getattr(video_processor, "fps", None) or video_processor.max_fps)

    def root_texts(self, conversations: Conversations) -> Sequence[str]:
        """``Image 1``, ``Image 2``, ... before several images without a text of their own."""
        kinds = [medium.kind for medium in conversations.media]
        if any(conversations.texts) or kinds.count("image") < 2:
            return conversations.texts
        return [
            f"Image {kinds[: place + 1].count('image')}" if kind == "image" else ""
            for place, kind in enumerate(kinds)
        ]

    def measure_image(self, height: int, width: int, options: Options = NO_OPTIONS) -> VisualTokens:
        """The tokens of a low-resolution view and of the crops, each with its own start and end."""
        processor = self.processor
        found = processor.image_processor.get_image_grid_and_crops(height, width, dict(options))
        (low_rows, low_columns, rows, columns), crops = found
        low_start = self.image_start
        if processor.use_single_crop_start_token:
            low_start = self.low_start or self.token("<low_res_im_start>")
        with_columns = processor.use_single_crop_col_tokens
        if with_columns is None:
            with_columns = processor.image_use_col_tokens
        tokens = np.concatenate(
            [
                self._view(low_start, low_rows, low_columns, with_columns),
                self._view(self.image_start, rows, columns, processor.image_use_col_tokens),
            ]
        )
        return VisualTokens(tokens, np.array([[0, len(tokens)]]), int(crops))

    def measure_video(
        self,
        clip: Clip,  # noqa: ARG002
        seconds: Float64,
        options: Options = NO_OPTIONS,  # noqa: ARG002
    ) -> VisualTokens:
        """The tokens of each frame, as one view after its time in seconds."""
        video_processor = self.processor.video_processor
        side = video_processor.size["height"] // video_processor.patch_size
        rows, columns = (math.ceil(side / pool) for pool in video_processor.pooling_size)
        with_columns = self.processor.video_use_col_tokens
        start, end = self.image_start, self.image_end
        if self.processor.use_frame_special_tokens:
            start, end = self.token("<frame_start>"), self.token("<frame_end>")
        view = self._view(start, rows, columns, with_columns, end)
        pieces, runs, used = [], [], 0
        for place, time in enumerate(seconds.tolist()):
            written = f"{' ' if place else ''}{time:.1f} "
            text = np.array(self.writer.text(written), np.int64)
            pieces += [text, view]
            runs.append((used + len(text), used + len(text) + len(view)))
            used = runs[-1][1]
        return VisualTokens(np.concatenate(pieces), np.array(runs), len(seconds))

    def image_arrays(self, image: Any, options: Options = NO_OPTIONS) -> dict[str, Array]:
        """Crops float32 ``[crops, 729, 588]``, pooling indices ``[tokens, 4]``, grid ``[1, 4]``."""
        made = self.processor.image_processor([image], return_tensors="pt", **options)
        return {
            "pixel_values": made["pixel_values"].numpy(),
            POOLING: made[POOLING].numpy().astype(np.int64),
            "image_grids": made["image_grids"].numpy(),
        }

    def video_arrays(
        self,
        frames: UInt8,
        options: Options = NO_OPTIONS,  # noqa: ARG002
    ) -> dict[str, Array]:
        """Frames in the names and shapes of images, with pooling indices ``[tokens, 9]``."""
        made = self.processor.video_processor(
            [frames], do_sample_frames=False, input_data_format="channels_last", return_tensors="pt"
        )
        times, rows, columns = made["video_grids"][0].tolist()
        return {
            "pixel_values": made["pixel_values_videos"].numpy(),
            POOLING: made["video_token_pooling"].numpy().astype(np.int64),
            "image_grids": np.array([[times * rows, columns, 0, 0]]),
        }

    def prompt_root(self, tokens: Int64, arrays: Mapping[str, Array]) -> LoadedRoot:
        """The root of a prompt as the processor made it, tokens and media."""
        types = np.array(self.processor.create_mm_token_type_ids([tokens.tolist()])[0])
        if (types > 1).any() or "pixel_values_videos" in arrays:
            raise FamilyError(
                f"family {self.name!r} takes no prompt with videos as tokens; load it as "
                "Conversations, with the family"
            )
        media = {name: arrays[name] for name in self.media_names["image"]}
        media[POOLING] = media[POOLING].astype(np.int64)
        costs = {self.vision_cost: len(media["pixel_values"])}
        return LoadedRoot(Root(tokens, token_runs(types > 0)), media, None, costs)

    def join(self, parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Concatenate, with pooling indices that go on counting and are equally wide."""
        width = max((part[POOLING].shape[1] for part in parts), default=0)
        moved, patches = [], 0
        for part in parts:
            pooling = np.full((len(part[POOLING]), width), -1, np.int64)
            own = part[POOLING]
            pooling[:, : own.shape[1]] = np.where(own >= 0, own + patches, -1)
            moved.append({**part, POOLING: pooling})
            patches += part["pixel_values"].shape[0] * part["pixel_values"].shape[1]
        return super().join(moved)

    def collate(
        self, trees: Sequence[MessageTree], total: int, fill: bool | Collection[str] = False
    ) -> dict[str, Array]:
        """Adds ``mm_token_type_ids`` ``[1, total]``, without which the model does not train."""
        types = np.zeros((1, total), np.int64)
        arrays = super().collate(trees, total, fill)
        used = 0
        for tree in trees:
            for start, end, _ in () if tree.image_runs is None else tree.image_runs.tolist():
                types[0, used + start : used + end] = 1
            used += tree.n_tokens
        types[0, used : used + len(self.fill_tokens(trees, fill))] = 1
        return {**arrays, "mm_token_type_ids": types}

    def smallest_medium(self, kind: str = "image") -> Filler:  # noqa: ARG002
        """One crop, of which one patch is looked at."""
        image_processor = self.processor.image_processor
        side = image_processor.patch_size
        patches = (image_processor.size["height"] // side) * (image_processor.size["width"] // side)
        return Filler(
            np.array([self.patch]),
            {"tokens": 1, "crops": 1},
            {
                "pixel_values": np.zeros((1, patches, 3 * side**2), np.float32),
                POOLING: np.array([[0, -1, -1, -1]]),
                "image_grids": np.array([[1, 1, 0, 0]]),
            },
        )

    def _view(
        self, start: int, rows: int, columns: int, with_columns: bool, end: int | None = None
    ) -> Int64:
        width = columns + with_columns
        view = np.full(rows * width + 2, self.patch)
        view[0], view[-1] = start, self.image_end if end is None else end
        view[1:-1].reshape(rows, width)[:, columns:] = self.column
        return view


FAMILY = Molmo2
