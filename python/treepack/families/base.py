"""What all model families share: from conversations to a message tree, in two steps.

+------------------------------------------------------------------------------------+
|  Conversations: branches, media                                                    |
+------------------------------------------------------------------------------------+
    measure_image(height, width), measure_video(clip, frames): no pixel is decoded
+------------------------------------------------------------------------------------+
|  VisualTokens of each medium: tokens int[n], runs int[R, 2], cost                  |
+------------------------------------------------------------------------------------+
    the chat format writes text tokens around them: root int[n], branches int[n]
+------------------------------------------------------------------------------------+
|  measure() ends here: {"tokens": ..., vision_cost: ...}                            |
+------------------------------------------------------------------------------------+
    only for what a pack has selected: image_arrays(image), video_arrays(frames)
+------------------------------------------------------------------------------------+
|  arrays of each medium: {"pixel_values": [cost, ...], ...}                         |
+------------------------------------------------------------------------------------+
    join(parts), root_positions(root, parts): int[A, n] or None
+------------------------------------------------------------------------------------+
|  load() ends here: MessageTree                                                     |
+------------------------------------------------------------------------------------+
    for the trees of one row: collate(trees, total), position_ids(int64[A, total])
+------------------------------------------------------------------------------------+
|  model inputs of the row                                                           |
+------------------------------------------------------------------------------------+
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import DataError, FamilyError, TreepackError
from treepack.families.chat_format import ChatFormat, ChatWriter, suitable_format, token_id
from treepack.sources.conversations import Conversations, Medium
from treepack.sources.media import Clip, image_size, load_frames, load_image, video_clip
from treepack.tree import IGNORE, MessageTree, example_name

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


class VisualTokens(NamedTuple):
    """An image or a video as the language model sees it.

    Attributes:
        tokens: int ``[n]``, placeholders of its features and the text among them.
        runs: int ``[R, 2]``, which stretches of the tokens are image tokens: one for an image, one
            for each frame that a video shows the language model.
        cost: what it takes of the family's second budget.
        frames: int ``[T]``, which frames of a video are seen.
    """

    tokens: Int64
    runs: Int64
    cost: int
    frames: Int64 | None = None


class Root(NamedTuple):
    """What all conversations of an example have in common.

    Attributes:
        tokens: int ``[n]``.
        runs: int ``[R, 3]``, entries ``(start, end, image)``; a frame of a video is an image.
    """

    tokens: Int64
    runs: Int64


class Family(ABC):
    """How one kind of model wants its examples.

    Args:
        processor: Hugging Face processor; its tokenizer, image processor and video processor do
            the work, with their own settings.
        chat: how turns are written; by default as in the model's chat template.

    Attributes:
        name: what ``family=`` calls it.
        processors: names of the processor classes that it supports.
        vision_cost: name of the budget beside tokens: the unit of the vision tower.
        bidirectional: mode of attention among image tokens.
        media_first: the chat template writes media before the first turn.
        default_fps: rate of a video where nothing says it.
    """

    name: ClassVar[str]
    processors: ClassVar[tuple[str, ...]]
    vision_cost: ClassVar[str]
    bidirectional: ClassVar[str] = "none"
    media_first: ClassVar[bool] = False

    def __init__(self, processor: Any, chat: ChatFormat | None = None) -> None:
        tokenizer = processor.tokenizer
        chat = chat or replace(suitable_format(tokenizer), media_first=self.media_first)
        self.processor = processor
        self.writer = ChatWriter(tokenizer, chat)
        self.start: list[int] = []

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of the budgets that the family measures."""
        return ("tokens", self.vision_cost)

    @property
    @abstractmethod
    def default_fps(self) -> float:
        """Rate of a video where nothing says it, in frames a second."""

    @abstractmethod
    def measure_image(self, height: int, width: int) -> VisualTokens:
        """What an image of this size, in pixels, will look like."""

    @abstractmethod
    def measure_video(self, clip: Clip, frames: Int64) -> VisualTokens:
        """What these frames of a video will look like; ``clip.fps`` is known."""

    @abstractmethod
    def image_arrays(self, image: Any) -> dict[str, Array]:
        """Model inputs of a PIL image; the first is ``[cost, ...]``."""

    @abstractmethod
    def video_arrays(self, frames: UInt8) -> dict[str, Array]:
        """Model inputs of frames uint8 ``[T, H, W, 3]``; the first as in `image_arrays`."""

    def join(self, parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """One set of model inputs from those of several media, in order."""
        names = dict.fromkeys(name for part in parts for name in part)
        return {n: np.concatenate([part[n] for part in parts if n in part]) for n in names}

    def root_positions(self, root: Root, parts: Sequence[Mapping[str, Array]]) -> Int64 | None:  # noqa: ARG002
        """Position ids int ``[A, n]`` of a root; ``None`` counts from 0."""
        return None

    def position_ids(self, positions: Int64) -> Int64:
        """Position ids as the model takes them, from int64 ``[A, total]``."""
        return positions

    def root_texts(self, conversations: Conversations) -> Sequence[str]:
        """What is written before each of the media."""
        return conversations.texts

    def collate(self, trees: Sequence[MessageTree], total: int) -> dict[str, Array]:  # noqa: ARG002
        """The inputs of a row of ``total`` tokens beside its tokens and positions."""
        return self.join([tree.media for tree in trees if tree.media])

    def measure(self, conversations: Conversations) -> dict[str, int]:
        """The cost of an example; files are opened, no pixel is decoded.

        Raises:
            DataError: media that cannot be read, or that the model cannot take.
        """
        visuals = self._see(conversations)
        root, branches = self._write(conversations, visuals)
        tokens = len(root.tokens) + sum(len(tokens) for tokens, _ in branches)
        return {"tokens": tokens, self.vision_cost: sum(visual.cost for visual in visuals)}

    def load(self, conversations: Conversations) -> MessageTree:
        """The tree of an example with its pixels; it costs exactly what `measure` says.

        Raises:
            DataError: media that cannot be decoded, or that the model cannot take.
        """
        visuals = self._see(conversations)
        root, branches = self._write(conversations, visuals)
        parts = [
            self._arrays(medium, visual, example_name(conversations.key))
            for medium, visual in zip(conversations.media, visuals, strict=True)
        ]
        costs = {self.vision_cost: sum(visual.cost for visual in visuals)}
        if not conversations.media and len(branches) == 1:
            tokens, labels = branches[0]
            return MessageTree(
                np.concatenate([root.tokens, np.array(tokens, np.int64)]),
                labels=[IGNORE] * len(root.tokens) + labels,
                end_target=self.writer.end,
                key=conversations.key,
                costs=costs,
            )
        return MessageTree(
            root.tokens,
            children=[
                MessageTree(tokens, labels=labels, end_target=self.writer.end)
                for tokens, labels in branches
            ],
            key=conversations.key,
            image_runs=root.runs,
            media=self.join(parts),
            root_positions=self.root_positions(root, parts),
            costs=costs,
        )

    def token(self, name: str) -> int:
        """The id of a special token that the family cannot do without."""
        found = token_id(self.processor.tokenizer, name)
        if found is None:
            raise FamilyError(
                f"family {self.name!r} needs the token {name!r}, which the tokenizer does not "
                "have; use the tokenizer of the model"
            )
        return found

    def _write(
        self, conversations: Conversations, visuals: Sequence[VisualTokens]
    ) -> tuple[Root, list[tuple[list[int], list[int]]]]:
        writer, media = self.writer, conversations.media
        is_open = bool(media) and (not writer.chat.media_first or any(conversations.texts))
        is_open = is_open or (not media and len(conversations.branches) > 1)
        pieces = [self.start, writer.system(conversations.system)]
        if is_open:
            pieces.append(writer.markup(writer.chat.user))
        tokens = np.array([token for piece in pieces for token in piece], np.int64)
        root = _lay(tokens, map(writer.text, self.root_texts(conversations)), visuals)
        return root, [writer.turns(turns, is_open) for turns in conversations.branches]

    def _see(self, conversations: Conversations) -> list[VisualTokens]:
        if not isinstance(conversations, Conversations):
            raise DataError(
                f"family {self.name!r} takes Conversations or conversation records, "
                f"got {type(conversations).__name__}"
            )
        name = example_name(conversations.key)
        return [self._visual(medium, name) for medium in conversations.media]

    def _visual(self, medium: Medium, name: str) -> VisualTokens:
        with _taking(medium, name):
            if medium.kind == "image":
                return self.measure_image(*image_size(medium.value, name))
            clip = video_clip(medium.value, name)
            clip = clip._replace(fps=clip.fps or self.default_fps)
            frames = self._sample(clip)
            return self.measure_video(clip, frames)._replace(frames=frames)

    def _sample(self, clip: Clip) -> Int64:
        from transformers.video_utils import VideoMetadata

        video_processor = self.processor.video_processor
        if not video_processor.do_sample_frames:
            return np.arange(clip.frames)
        metadata = VideoMetadata(
            total_num_frames=clip.frames,
            fps=clip.fps,
            duration=clip.frames / clip.fps if clip.fps else None,
            height=clip.height,
            width=clip.width,
        )
        settings = {
            name: getattr(video_processor, name)
            for name in ("num_frames", "fps", "max_fps")
            if hasattr(video_processor, name)
        }
        return np.asarray(video_processor.sample_frames(metadata, **settings), np.int64)

    def _arrays(self, medium: Medium, visual: VisualTokens, name: str) -> dict[str, Array]:
        with _taking(medium, name):
            if visual.frames is None:
                arrays = self.image_arrays(load_image(medium.value, name))
            else:
                arrays = self.video_arrays(load_frames(medium.value, visual.frames, name))
        cost = len(next(iter(arrays.values())))
        if cost != visual.cost:
            raise DataError(
                f"{name}: {medium.kind} was measured with {visual.cost} {self.vision_cost}, its "
                f"processor makes {cost}; a setting of the processor is not measured, so leave it "
                "at its default"
            )
        return arrays


def _lay(tokens: Int64, texts: Iterator[list[int]], visuals: Sequence[VisualTokens]) -> Root:
    pieces = [tokens]
    runs = [np.empty((0, 2), np.int64)]
    used = len(tokens)
    for text, visual in zip(texts, visuals, strict=True):
        pieces += [np.array(text, np.int64), visual.tokens]
        runs.append(visual.runs + used + len(text))
        used += len(text) + len(visual.tokens)
    places = np.concatenate(runs)
    return Root(np.concatenate(pieces), np.column_stack([places, np.arange(len(places))]))


@contextmanager
def _taking(medium: Medium, name: str) -> Iterator[None]:
    try:
        yield
    except TreepackError:
        raise
    except Exception as error:
        what = medium.value if isinstance(medium.value, str) else type(medium.value).__name__
        raise DataError(
            f"{name}: the processor does not take {medium.kind} {what!r}: {error}"
        ) from error
