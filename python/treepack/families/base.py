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
        tokens: int64 ``[n]``, placeholders of its features and the text among them.
        runs: int64 ``[R, 2]``, entries ``(start, end)``: which stretches of the tokens are image
            tokens. One for an image; one for each frame that a video shows the language model.
        cost: what it takes of the budget ``vision_cost``, in units of that.
        frames: int64 ``[T]``, which frames of a video are seen; `Family` fills it in.
    """

    tokens: Int64
    runs: Int64
    cost: int
    frames: Int64 | None = None


class Root(NamedTuple):
    """What all conversations of an example have in common.

    Attributes:
        tokens: int64 ``[n]``.
        runs: int64 ``[R, 3]``, entries ``(start, end, image)``; a frame of a video is an image.
    """

    tokens: Int64
    runs: Int64


class Family(ABC):
    """How one kind of model wants its examples.

    A new family defines the class attributes and the abstract methods; the rest has defaults. What
    `measure_image` says of an image must be true of the arrays that `image_arrays` makes of it, and
    likewise for videos; `load` checks the cost.

    Args:
        processor: Hugging Face processor; its tokenizer, image processor and video processor do
            the work, with their own settings.
        chat: how turns are written; by default as in the model's chat template.

    Attributes:
        name: what ``family=`` calls it.
        processors: names of the processor classes that it supports.
        vision_cost: name of the budget beside tokens: the unit of the vision tower.
        bidirectional: which image tokens see later ones, ``"none"``, ``"image_tokens"`` or
            ``"within_image"``.
        media_first: whether the chat template writes media before the first turn.

    Raises:
        FamilyError: the tokenizer cannot say the end of a turn, or lacks a token of the family.

    Example:
        A model for which each four pixels of a grey image are one token, of id 7:

        >>> from types import SimpleNamespace as Stub
        >>> class Fours(Family):
        ...     name, processors, vision_cost, default_fps = "fours", (), "fours", 1.0
        ...     def measure_image(self, height, width):
        ...         n = height * width // 4
        ...         return VisualTokens(np.full(n, 7), np.array([[0, n]]), n)
        ...     def image_arrays(self, image):
        ...         return {"pixel_values": np.asarray(image).reshape(-1, 4)}
        ...     measure_video = video_arrays = None
        >>> tokenizer = Stub(encode=lambda text, **_: list(text.encode()), eos_token_id=0)
        >>> tokenizer.convert_tokens_to_ids = {}.get  # no special tokens: a plain chat format
        >>> media = [("image", np.zeros((4, 6), np.uint8))]
        >>> example = Conversations([[("What?", "A cat.")]], media)
        >>> family = Fours(Stub(tokenizer=tokenizer))
        >>> family.measure(example), family.load(example).image_runs.tolist()
        ({'tokens': 35, 'fours': 6}, [[6, 12, 0]])
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
        """Rate that is assumed of a video that does not say its own, in frames a second."""

    @abstractmethod
    def measure_image(self, height: int, width: int) -> VisualTokens:
        """The tokens and the cost of an image, from its size alone.

        Args:
            height: of the image upright, in pixels.
            width: the same.

        Returns:
            What `image_arrays` will make of it. Whatever this and the other methods for images
            and videos raise becomes a ``DataError`` that names the example.
        """

    @abstractmethod
    def measure_video(self, clip: Clip, frames: Int64) -> VisualTokens:
        """The tokens and the cost of a video, from what its header says.

        Args:
            clip: length, rate and size of the video; ``clip.fps`` is `default_fps` if not known.
            frames: int64 ``[T]``, the frames that are seen, increasing.

        Returns:
            What `video_arrays` will make of these frames.
        """

    @abstractmethod
    def image_arrays(self, image: Any) -> dict[str, Array]:
        """The model's inputs of one image.

        Args:
            image: PIL image, upright.

        Returns:
            Arrays by the names that the model takes. The first axis of the first one is as long as
            the cost that was measured.
        """

    @abstractmethod
    def video_arrays(self, frames: UInt8) -> dict[str, Array]:
        """The model's inputs of one video.

        Args:
            frames: uint8 ``[T, H, W, 3]``, the frames that were given to `measure_video`.

        Returns:
            Arrays by name, the first as in `image_arrays`.
        """

    def join(self, parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """One set of model inputs from those of several media: each name concatenated on axis 0.

        Args:
            parts: what `image_arrays` and `video_arrays` gave, in the order of the row.
        """
        names = dict.fromkeys(name for part in parts for name in part)
        return {n: np.concatenate([part[n] for part in parts if n in part]) for n in names}

    def root_positions(self, root: Root, parts: Sequence[Mapping[str, Array]]) -> Int64 | None:  # noqa: ARG002
        """Position ids of a root, int ``[A, n]`` on ``A`` axes; ``None`` counts from 0.

        Args:
            root: its ``n`` tokens and image runs.
            parts: the arrays of its media, in order.
        """
        return None

    def position_ids(self, positions: Int64) -> Int64:
        """Position ids in the shape that the model takes.

        Args:
            positions: int64 ``[A, total]``; branches go on from their root on each axis.
        """
        return positions

    def root_texts(self, conversations: Conversations) -> Sequence[str]:
        """What is written before each of the media, one text for each.

        Args:
            conversations: the example.
        """
        return conversations.texts

    def collate(self, trees: Sequence[MessageTree], total: int) -> dict[str, Array]:  # noqa: ARG002
        """The inputs of a row beside its tokens and positions, by name.

        Args:
            trees: those of the row, in order.
            total: length of the row with padding, in tokens.
        """
        return self.join([tree.media for tree in trees if tree.media])

    def measure(self, conversations: Conversations) -> dict[str, int]:
        """The cost of an example; files are opened, no pixel is decoded.

        Args:
            conversations: the example.

        Returns:
            Integers by the names in `costs`.

        Raises:
            DataError: media that cannot be read, or that the model cannot take.
        """
        visuals = self._see(conversations)
        root, branches = self._write(conversations, visuals)
        tokens = len(root.tokens) + sum(len(tokens) for tokens, _ in branches)
        return {"tokens": tokens, self.vision_cost: sum(visual.cost for visual in visuals)}

    def load(self, conversations: Conversations) -> MessageTree:
        """The tree of an example with its pixels; it costs exactly what `measure` says.

        Args:
            conversations: the example.

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
        """The id of a special token that the family cannot do without.

        Args:
            name: the token, such as ``"<im_patch>"``.

        Raises:
            FamilyError: the tokenizer does not have it.
        """
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
