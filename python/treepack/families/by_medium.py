"""Families that know the tokens of each medium by themselves, from its size alone.

+------------------------------------------------------------------------------------+
|  the media of an example, opened: size, options, which frames are seen             |
+------------------------------------------------------------------------------------+
    measure_image(height, width, options), measure_video(clip, seconds, options)
+------------------------------------------------------------------------------------+
|  VisualTokens of each medium: tokens int[n], runs int[R, 2], cost                  |
+------------------------------------------------------------------------------------+
    the chat format writes text tokens around them: root int[n]; measuring ends here
+------------------------------------------------------------------------------------+
    only for what a pack has selected: image_arrays(image, options), video_arrays(frames, options)
+------------------------------------------------------------------------------------+
|  arrays of each medium: {"pixel_values": [cost, ...], ...}                         |
+------------------------------------------------------------------------------------+
    join(parts), root_positions(root, parts): int[A, n] or None
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from treepack.errors import DataError
from treepack.families.base import Array, Family, Float64, Int64, Seen, UInt8, taking
from treepack.families.chat_format import (
    ChatFormat,
    ChatWriter,
    MeasuredBranch,
    Written,
    suitable_format,
)
from treepack.families.options import NO_OPTIONS, Options
from treepack.families.roots import (
    MOST_MEASURED,
    LoadedRoot,
    MeasuredRoot,
    MeasuredVisual,
    Root,
    VisualTokens,
    lay_root,
    measure_root,
)
from treepack.sources.conversations import Conversations
from treepack.sources.images import load_image
from treepack.sources.videos import Clip, load_frames


class MediumFamily(Family):
    """A family that measures an image from its height and width, and a video from its header.

    What `measure_image` says of an image must be true of the arrays that `image_arrays` makes of
    it, and likewise for videos; `load` checks the cost.

    Args:
        processor: Hugging Face processor of the model.
        chat: how turns are written; by default ChatML where the tokenizer knows it.

    Attributes:
        media_first: whether the chat template writes media before the first turn.

    Example:
        A model for which each four pixels of a grey image are one token, of id 7:

        >>> from types import SimpleNamespace as Stub
        >>> class Fours(MediumFamily):
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

    media_first: ClassVar[bool] = False

    def __init__(self, processor: Any, chat: ChatFormat | None = None) -> None:
        super().__init__(processor, chat)
        tokenizer = self.tokenizer
        chat = chat or replace(suitable_format(tokenizer), media_first=self.media_first)
        self.writer: ChatWriter = ChatWriter(tokenizer, chat)
        self.start: list[int] = []
        self._images: dict[tuple[Any, ...], MeasuredVisual] = {}

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

    def measure_root(self, conversations: Conversations, seen: Sequence[Seen]) -> MeasuredRoot:
        """Tokens and costs of what the conversations have in common."""
        visuals = [self._measured(medium) for medium in seen]
        texts = self.writer.counts(self.root_texts(conversations))
        begun = sum(map(len, self._begin(conversations)))
        n_tokens, runs = measure_root(begun, texts, visuals)
        return MeasuredRoot(n_tokens, {self.vision_cost: _cost(visuals)}, runs)

    def load_root(self, conversations: Conversations, seen: Sequence[Seen]) -> LoadedRoot:
        """What the conversations have in common, with its arrays."""
        visuals = [self._visual(medium) for medium in seen]
        root = self._lay(conversations, visuals)
        pairs = zip(seen, visuals, strict=True)
        parts = [self._arrays(medium, visual) for medium, visual in pairs]
        return LoadedRoot(
            root,
            self.join(parts),
            self.root_positions(root, parts),
            {self.vision_cost: _cost(visuals)},
        )

    def branches(self, conversations: Conversations) -> list[Written]:
        """Each conversation, written behind the root."""
        return self.writer.branches(conversations.branches, self._is_open(conversations))

    def measure_branches(self, conversations: Conversations) -> list[MeasuredBranch]:
        """How many tokens and targets each conversation has."""
        if type(self).branches is not MediumFamily.branches:
            return super().measure_branches(conversations)
        return self.writer.measure(conversations.branches, self._is_open(conversations))

    def _is_open(self, conversations: Conversations) -> bool:
        """Whether the root begins the first turn."""
        media, chat = conversations.media, self.writer.chat
        is_open = bool(media) and (not chat.media_first or any(conversations.texts))
        return is_open or (not media and len(conversations.branches) > 1)

    def _begin(self, conversations: Conversations) -> list[list[int]]:
        """Tokens before the media and the texts between them."""
        writer = self.writer
        pieces = [self.start, writer.system(conversations.system)]
        if self._is_open(conversations):
            pieces.append(writer.markup(writer.chat.user))
        return pieces

    def _lay(self, conversations: Conversations, visuals: Sequence[VisualTokens]) -> Root:
        begun = [token for piece in self._begin(conversations) for token in piece]
        texts = self.writer.texts(self.root_texts(conversations))
        return lay_root(np.array(begun, np.int64), texts, visuals)

    def _measured(self, seen: Seen) -> MeasuredVisual:
        """A medium in numbers; an image of a size that was seen before is measured once."""
        if seen.clip is not None:
            return MeasuredVisual.of(self._visual(seen))
        key = seen.height, seen.width, *sorted(seen.options.items())
        if key not in self._images:
            if len(self._images) >= MOST_MEASURED:
                self._images.clear()
            self._images[key] = MeasuredVisual.of(self._visual(seen))
        return self._images[key]

    def _visual(self, seen: Seen) -> VisualTokens:
        with taking(seen):
            if seen.clip is None:
                return self.measure_image(seen.height, seen.width, seen.options)
            return self.measure_video(seen.clip, seen.seconds, seen.options)

    def _arrays(self, seen: Seen, visual: VisualTokens) -> dict[str, Array]:
        medium, name = seen.medium, seen.example
        with taking(seen):
            if seen.clip is None:
                arrays = self.image_arrays(load_image(medium.value, name), seen.options)
            else:
                frames = load_frames(medium.value, seen.frames, name)
                arrays = self.video_arrays(frames, seen.options)
        cost = len(next(iter(arrays.values())))
        if cost != visual.cost:
            raise DataError(
                f"{name}: {medium.kind} was measured with {visual.cost} {self.vision_cost}, its "
                f"processor makes {cost}; a setting of the processor is not measured, so leave it "
                "at its default"
            )
        return arrays


def _cost(visuals: Sequence[VisualTokens | MeasuredVisual]) -> int:
    return sum(visual.cost for visual in visuals)
