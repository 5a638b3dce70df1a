"""What all model families share: from conversations to a message tree, in two steps.

+------------------------------------------------------------------------------------+
|  Conversations: branches, media                                                    |
+------------------------------------------------------------------------------------+
    measure_image(height, width, options), measure_video(clip, seconds, options)
+------------------------------------------------------------------------------------+
|  VisualTokens of each medium: tokens int[n], runs int[R, 2], cost                  |
+------------------------------------------------------------------------------------+
    the chat format writes text tokens around them: root int[n], branches int[n]
+------------------------------------------------------------------------------------+
|  measure() ends here: {"tokens": ..., vision_cost: ...}                            |
+------------------------------------------------------------------------------------+
    only for what a pack has selected: image_arrays(image, options), video_arrays(frames, options)
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
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from treepack.errors import DataError, FamilyError, TreepackError
from treepack.families.chat_format import (
    ChatFormat,
    ChatWriter,
    Written,
    suitable_format,
    token_id,
)
from treepack.families.options import (
    NO_OPTIONS,
    Options,
    checked_options,
    cut_clip,
    sample_frames,
)
from treepack.families.row_inputs import RowInputs
from treepack.families.visual_tokens import Root, VisualTokens, lay_root
from treepack.sources.conversations import Conversations, Medium
from treepack.sources.images import image_size, load_image
from treepack.sources.media import cut, show
from treepack.sources.videos import Clip, load_frames, video_clip
from treepack.tree import IGNORE, MessageTree, example_name

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


class Family(RowInputs, ABC):
    """How one kind of model wants its examples.

    A new family defines the class attributes and the abstract methods; the rest has defaults. What
    `measure_image` says of an image must be true of the arrays that `image_arrays` makes of it, and
    likewise for videos; `load` checks the cost.

    Args:
        processor: Hugging Face processor; its tokenizer, image processor and video processor do
            the work, with their own settings.
        chat: how turns are written; by default as in the model's chat template.

    Attributes:
        processors: names of the processor classes that it supports.
        vision_cost: name of the budget beside tokens: the unit of the vision tower.
        bidirectional: which image tokens see later ones, ``"none"``, ``"image_tokens"`` or
            ``"within_image"``.
        media_first: whether the chat template writes media before the first turn.
        image_options: what the data may say about one image.
        video_options: what it may say about one video: the ``start`` and ``end`` of a clip in
            seconds, how many frames a second (``fps``) or in all (``num_frames``) are seen. Of a
            list of frames all are seen, and ``fps`` is their rate.
        clip_counts_from_zero: times of the frames of a clip count from its start, else from that of
            the film.
        default_fps: rate of a video where nothing says it.

    Raises:
        FamilyError: the tokenizer cannot say the end of a turn, or lacks a token of the family.

    Example:
        A model for which each four pixels of a grey image are one token, of id 7:

        >>> from types import SimpleNamespace as Stub
        >>> class Fours(Family):
        ...     name, processors, vision_cost, default_fps = "fours", (), "fours", 1.0
        ...     def measure_image(self, height, width, options=None):
        ...         n = height * width // 4
        ...         return VisualTokens(np.full(n, 7), np.array([[0, n]]), n)
        ...     def image_arrays(self, image, options=None):
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

    processors: ClassVar[tuple[str, ...]]
    vision_cost: ClassVar[str]
    bidirectional: ClassVar[str] = "none"
    media_first: ClassVar[bool] = False
    image_options: ClassVar[tuple[str, ...]] = ()
    video_options: ClassVar[tuple[str, ...]] = ("start", "end", "fps", "num_frames")
    clip_counts_from_zero: ClassVar[bool] = False

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

    @property
    def sampled_fps(self) -> float:
        """Rate of frames that were chosen before: that at which the processor chooses them."""
        return float(getattr(self.processor.video_processor, "fps", None) or self.default_fps)

    @abstractmethod
    def measure_image(self, height: int, width: int, options: Options = NO_OPTIONS) -> VisualTokens:
        """The tokens and the cost of an image, from its size alone.

        Args:
            height: of the image upright, in pixels.
            width: the same.
            options: those of `image_options` that the data gives, by name.

        Returns:
            What `image_arrays` will make of it. Whatever this and the other methods for images
            and videos raise becomes a ``DataError`` that names the example.
        """

    @abstractmethod
    def measure_video(
        self, clip: Clip, seconds: Float64, options: Options = NO_OPTIONS
    ) -> VisualTokens:
        """The tokens and the cost of a video, from what its header says.

        Args:
            clip: length, rate and size of the video; ``clip.fps`` is `default_fps` if not known.
            seconds: float64 ``[T]``, the times of the frames that are seen, increasing.
            options: as for `measure_image`.

        Returns:
            What `video_arrays` will make of these frames.
        """

    @abstractmethod
    def image_arrays(self, image: Any, options: Options = NO_OPTIONS) -> dict[str, Array]:
        """The model's inputs of one image.

        Args:
            image: PIL image, upright.
            options: as for `measure_image`.

        Returns:
            Arrays by the names that the model takes. The first axis of the first one is as long as
            the cost that was measured.
        """

    @abstractmethod
    def video_arrays(self, frames: UInt8, options: Options = NO_OPTIONS) -> dict[str, Array]:
        """The model's inputs of one video.

        Args:
            frames: uint8 ``[T, H, W, 3]``, the frames that were given to `measure_video`.
            options: as for `measure_image`.

        Returns:
            Arrays by name, the first as in `image_arrays`.
        """

    def root_positions(self, root: Root, parts: Sequence[Mapping[str, Array]]) -> Int64 | None:  # noqa: ARG002
        """Position ids of a root, int ``[A, n]`` on ``A`` axes; ``None`` counts from 0.

        Args:
            root: its ``n`` tokens and image runs.
            parts: the arrays of its media, in order.
        """
        return None

    def root_texts(self, conversations: Conversations) -> Sequence[str]:
        """What is written before each of the media, one text for each.

        Args:
            conversations: the example.
        """
        return conversations.texts

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
        tokens = len(root.tokens) + sum(len(written.tokens) for written in branches)
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
            self._arrays(medium, visual, _name(conversations))
            for medium, visual in zip(conversations.media, visuals, strict=True)
        ]
        costs = {self.vision_cost: sum(visual.cost for visual in visuals)}
        if not conversations.media and len(branches) == 1:
            return MessageTree(
                **_one_node(root.tokens, branches[0]),
                key=conversations.key,
                costs=costs,
                role=conversations.roles[0],
            )
        return MessageTree(
            root.tokens,
            children=[
                MessageTree(**written._asdict(), role=role)
                for written, role in zip(branches, conversations.roles, strict=True)
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
    ) -> tuple[Root, list[Written]]:
        writer, media = self.writer, conversations.media
        is_open = bool(media) and (not writer.chat.media_first or any(conversations.texts))
        is_open = is_open or (not media and len(conversations.branches) > 1)
        pieces = [self.start, writer.system(conversations.system)]
        if is_open:
            pieces.append(writer.markup(writer.chat.user))
        tokens = np.array([token for piece in pieces for token in piece], np.int64)
        root = lay_root(tokens, map(writer.text, self.root_texts(conversations)), visuals)
        return root, [writer.turns(turns, is_open) for turns in conversations.branches]

    def _see(self, conversations: Conversations) -> list[VisualTokens]:
        if not isinstance(conversations, Conversations):
            raise DataError(
                f"family {self.name!r} takes Conversations or conversation records, "
                f"got {type(conversations).__name__}"
            )
        return [self._visual(medium, _name(conversations)) for medium in conversations.media]

    def _options(self, medium: Medium, name: str) -> Options:
        known = self.image_options if medium.kind == "image" else self.video_options
        if isinstance(medium.value, (list, tuple)):
            known = tuple(option for option in known if option != "num_frames")
        return checked_options(medium, known, name, self.name)

    def _visual(self, medium: Medium, name: str) -> VisualTokens:
        options = self._options(medium, name)
        with _taking(medium, name):
            if medium.kind == "image":
                return self.measure_image(*image_size(medium.value, name), options)
            clip = video_clip(medium.value, name)
            if clip.is_sampled:
                clip = clip._replace(fps=options.get("fps"))
            clip, first = cut_clip(clip, options, name)
            rate = clip.fps or (self.sampled_fps if clip.is_sampled else self.default_fps)
            clip = clip._replace(fps=rate)
            frames = sample_frames(self.processor.video_processor, clip, options) + first
            seconds = (frames - first * self.clip_counts_from_zero) / rate
            return self.measure_video(clip, seconds, options)._replace(frames=frames)

    def _arrays(self, medium: Medium, visual: VisualTokens, name: str) -> dict[str, Array]:
        options = self._options(medium, name)
        with _taking(medium, name):
            if visual.frames is None:
                arrays = self.image_arrays(load_image(medium.value, name), options)
            else:
                frames = load_frames(medium.value, visual.frames, name)
                arrays = self.video_arrays(frames, options)
        cost = len(next(iter(arrays.values())))
        if cost != visual.cost:
            raise DataError(
                f"{name}: {medium.kind} was measured with {visual.cost} {self.vision_cost}, its "
                f"processor makes {cost}; a setting of the processor is not measured, so leave it "
                "at its default"
            )
        return arrays


def _name(conversations: Conversations) -> str:
    return cut(example_name(conversations.key))


def _one_node(root: Int64, written: Written) -> dict[str, Any]:
    """A root and its only branch as one node."""
    weight = written.weight
    if not isinstance(weight, float):
        weight = np.concatenate([np.ones(len(root), np.float32), weight])
    return {
        "tokens": np.concatenate([root, np.array(written.tokens, np.int64)]),
        "labels": [IGNORE] * len(root) + written.labels,
        "weight": weight,
        "end_target": written.end_target,
    }


@contextmanager
def _taking(medium: Medium, name: str) -> Iterator[None]:
    try:
        yield
    except TreepackError:
        raise
    except Exception as error:
        raise DataError(
            f"{name}: the processor does not take {medium.kind} {show(medium.value)}: "
            f"{cut(str(error))}"
        ) from error
