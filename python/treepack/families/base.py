"""What all model families share: from conversations to a message tree, in two steps.

+------------------------------------------------------------------------------------+
|  Conversations: branches, media                                                    |
+------------------------------------------------------------------------------------+
    files are opened: Seen of each medium (size, options, which frames of a video)
+------------------------------------------------------------------------------------+
|  measure_root(conversations, seen): how many tokens, costs by name                 |
|  measure_branches(conversations): how many tokens and targets each has             |
+------------------------------------------------------------------------------------+
|  measure() ends here: {"tokens": ..., vision_cost: ...}                            |
+------------------------------------------------------------------------------------+
    only for what a pack has selected
+------------------------------------------------------------------------------------+
|  load_root(conversations, seen): tokens, arrays of the media, positions            |
|  branches(conversations): int[n] of each conversation, with its targets            |
+------------------------------------------------------------------------------------+
|  load() ends here: MessageTree                                                     |
+------------------------------------------------------------------------------------+
    for the trees of one row: collate(trees, total), position_ids(int64[A, total])
+------------------------------------------------------------------------------------+
|  model inputs of the row                                                           |
+------------------------------------------------------------------------------------+

Roots are made in one of two ways: by_processor.py lets the processor of the model make them, which
serves most families; by_medium.py knows the tokens of each image and video itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import DataError, FamilyError, TreepackError
from treepack.families.chat_format import ChatFormat, MeasuredBranch, Written, token_id
from treepack.families.options import Options, checked_options, cut_clip, sample_frames
from treepack.families.roots import LoadedRoot, MeasuredRoot, Outline
from treepack.families.row_inputs import RowInputs
from treepack.families.sharing import grow, may_share, told
from treepack.options import Bidirectional
from treepack.sources.conversations import Conversations, Medium
from treepack.sources.images import image_size
from treepack.sources.media import cut, show
from treepack.sources.records.base import Turn
from treepack.sources.videos import Clip, video_clip
from treepack.tree import IGNORE, MessageTree, example_name

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


class Seen(NamedTuple):
    """A medium whose file was opened; no pixel is decoded yet.

    Attributes:
        medium: as the example has it.
        options: what the data says about it, checked.
        example: how errors name the example.
        height: upright, in pixels.
        width: upright, in pixels.
        clip: the stretch of a video that is looked at, ``None`` for an image; its rate is known.
        frames: int64 ``[T]``, which frames of the film are seen, increasing.
        seconds: float64 ``[T]``, their times.
    """

    medium: Medium
    options: Options
    example: str
    height: int
    width: int
    clip: Clip | None = None
    frames: Int64 = np.empty(0, np.int64)
    seconds: Float64 = np.empty(0)


class Family(RowInputs, ABC):
    """How one kind of model wants its examples.

    A new family inherits from `ProcessorFamily` and declares what its processor cannot be asked, or
    from `MediumFamily` and says how it measures; docs/models.md shows both.

    Args:
        processor: Hugging Face processor, or tokenizer of a text model; its tokenizer, image
            processor and video processor do the work, with their own settings.
        chat: how turns are written; by default as in the model's chat template.

    Attributes:
        processors: names of the processor classes that it supports.
        vision_cost: name of the budget beside tokens: the unit of the vision tower.
        bidirectional: which image tokens see later ones, as `treepack.collate` names it.
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
        A text model that counts letters, with a family of its own:

        >>> from types import SimpleNamespace as Stub
        >>> from treepack.families.chat_format import ChatWriter
        >>> from treepack.families.roots import Root
        >>> class Letters(Family):
        ...     name, default_fps, costs = "letters", 1.0, ("tokens",)
        ...     def measure_root(self, conversations, seen):
        ...         return MeasuredRoot(0, {})
        ...     def load_root(self, conversations, seen):
        ...         nothing = Root(np.empty(0, np.int64), np.empty((0, 3), np.int64))
        ...         return LoadedRoot(nothing, {}, None, {})
        ...     def branches(self, conversations):
        ...         writer = ChatWriter(self.tokenizer, ChatFormat("Q: ", " A: ", end="."))
        ...         return [writer.turns(turns, False) for turns in conversations.branches]
        >>> tokenizer = Stub(encode=lambda text, **_: list(text.encode()))
        >>> example = Conversations([[("What?", "A cat")]])
        >>> bytes(Letters(tokenizer).load(example).tokens.tolist())
        b'Q: What? A: A cat'
    """

    processors: ClassVar[tuple[str, ...]]
    vision_cost: ClassVar[str]
    bidirectional: ClassVar[Bidirectional] = "none"
    image_options: ClassVar[tuple[str, ...]] = ()
    video_options: ClassVar[tuple[str, ...]] = ("start", "end", "fps", "num_frames")
    clip_counts_from_zero: ClassVar[bool] = False

    def __init__(self, processor: Any, chat: ChatFormat | None = None) -> None:
        self.processor = processor
        self.chat = chat

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the processor, which may be one itself."""
        return getattr(self.processor, "tokenizer", self.processor)

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
    def measure_root(self, conversations: Conversations, seen: Sequence[Seen]) -> MeasuredRoot:
        """How much what the conversations have in common takes, without decoding a pixel.

        Args:
            conversations: the example.
            seen: its media, opened.
        """

    @abstractmethod
    def load_root(self, conversations: Conversations, seen: Sequence[Seen]) -> LoadedRoot:
        """What the conversations have in common, with the model inputs of the media.

        Args:
            conversations: the example.
            seen: its media, opened.

        Returns:
            As many tokens, and the same costs, as `measure_root` says.
        """

    @abstractmethod
    def branches(self, conversations: Conversations) -> list[Written]:
        """The tokens and targets of each conversation, as they stand behind the root.

        Args:
            conversations: the example.
        """

    def prompt_root(self, tokens: Int64, arrays: Mapping[str, Array]) -> LoadedRoot:
        """The root of a prompt as the processor made it, tokens and media.

        Args:
            tokens: int64 ``[n]``, the whole prompt, with a placeholder for each image feature.
            arrays: what the processor gave beside ``input_ids``, by name; where an array has an
                entry for each token it is ``[1, n]``.

        Raises:
            FamilyError: this family cannot take it.
        """
        raise FamilyError(
            f"family {self.name!r} cannot take a prompt with media as tokens ({len(tokens)} of "
            f"them, and {sorted(arrays)}); write a prompt_root() for it"
        )

    def measure_branches(self, conversations: Conversations) -> list[MeasuredBranch]:
        """What `branches` gives, in numbers; a family may find them without writing tokens.

        Args:
            conversations: the example.
        """
        return list(map(MeasuredBranch.of, self.branches(conversations)))

    def measure(self, conversations: Conversations) -> dict[str, int]:
        """The cost of an example; files are opened, no pixel is decoded.

        Args:
            conversations: the example.

        Returns:
            Integers by the names in `costs`.

        Raises:
            DataError: media that cannot be read, or that the model cannot take.
        """
        return self.outline(conversations).costs

    def outline(self, conversations: Conversations) -> Outline:
        """What `measure` finds, and the lengths behind it.

        Args:
            conversations: the example.
        """
        root = self.measure_root(conversations, self._see(conversations))
        if may_share(conversations):
            return self._outline_of_shared(conversations, root)
        branches = self.measure_branches(conversations)
        lengths = tuple([branch.n_tokens for branch in branches])
        costs = {"tokens": root.n_tokens + sum(lengths), **root.costs}
        targets = sum([branch.n_targets for branch in branches])
        if not root.n_tokens:
            # Nothing predicts the first token.
            targets -= sum([branch.begins_trained for branch in branches])
        return Outline(costs, root.n_tokens, lengths, targets, root.runs)

    def _outline_of_shared(self, conversations: Conversations, root: MeasuredRoot) -> Outline:
        """The same of conversations some of which begin alike."""
        grown = grow(conversations, self.branches(conversations))
        tree = MessageTree([0] * root.n_tokens, children=grown.children)
        lengths, shared = tree.branch_lengths()
        costs = {"tokens": tree.n_tokens, **root.costs}
        outline = Outline(costs, root.n_tokens, tuple(lengths), _targets_below(tree), root.runs)
        return outline._replace(shared=tuple(shared), order=grown.order)

    def load(self, conversations: Conversations) -> MessageTree:
        """The tree of an example with its pixels; it costs exactly what `measure` says.

        Args:
            conversations: the example.

        Raises:
            DataError: media that cannot be decoded, or that the model cannot take.
        """
        made = self.load_root(conversations, self._see(conversations))
        branches, root, key = self.branches(conversations), made.root, conversations.key
        if not conversations.media and len(branches) == 1:
            return MessageTree(
                **_one_node(root.tokens, branches[0]),
                key=key,
                costs=made.costs,
                **told(conversations, 0),
            )
        return MessageTree(
            root.tokens,
            children=grow(conversations, branches).children,
            key=key,
            image_runs=root.runs,
            media=made.media,
            root_positions=made.positions,
            costs=made.costs,
        )

    def render(
        self,
        conversations: Conversations,  # noqa: ARG002
        turns: Sequence[Turn],  # noqa: ARG002
    ) -> dict[str, Array] | None:
        """What the processor itself makes of one whole conversation with the example's media.

        It is for checks: nothing that this class knows of templates and tokens goes into it.

        Args:
            conversations: the example.
            turns: one of its branches.

        Returns:
            Everything that the processor gives, by name; ``None`` if it renders no conversation.
        """
        return None

    def token(self, name: str) -> int:
        """The id of a special token that the family cannot do without.

        Args:
            name: the token, such as ``"<im_patch>"``.

        Raises:
            FamilyError: the tokenizer does not have it.
        """
        found = token_id(self.tokenizer, name)
        if found is None:
            raise FamilyError(
                f"family {self.name!r} needs the token {name!r}, which the tokenizer does not "
                "have; use the tokenizer of the model"
            )
        return found

    def _see(self, conversations: Conversations) -> list[Seen]:
        if not isinstance(conversations, Conversations):
            raise DataError(
                f"family {self.name!r} takes Conversations or conversation records, "
                f"got {type(conversations).__name__}"
            )
        name = cut(example_name(conversations.key))
        return [self._open(medium, name) for medium in conversations.media]

    def _options(self, medium: Medium, name: str) -> Options:
        known = self.image_options if medium.kind == "image" else self.video_options
        if isinstance(medium.value, (list, tuple)):
            known = tuple(option for option in known if option != "num_frames")
        return checked_options(medium, known, name, self.name)

    def _open(self, medium: Medium, name: str) -> Seen:
        seen = Seen(medium, self._options(medium, name), name, 0, 0)
        with taking(seen):
            if medium.kind == "image":
                height, width = image_size(medium.value, name)
                return seen._replace(height=height, width=width)
            return self._open_video(seen)

    def _open_video(self, seen: Seen) -> Seen:
        medium, options, name = seen[:3]
        clip = video_clip(medium.value, name)
        if clip.is_sampled:
            clip = clip._replace(fps=options.get("fps"))
        clip, first = cut_clip(clip, options, name)
        rate = clip.fps or (self.sampled_fps if clip.is_sampled else self.default_fps)
        clip = clip._replace(fps=rate)
        frames = sample_frames(self.processor.video_processor, clip, options) + first
        seconds = (frames - first * self.clip_counts_from_zero) / rate
        return Seen(medium, options, name, clip.height, clip.width, clip, frames, seconds)


def _targets_below(tree: MessageTree) -> int:
    """Tokens below the root that are trained on; each but those that nothing predicts."""
    found, depths = 0, [len(tree.tokens)]
    for node, parent in list(tree.nodes())[1:]:
        above = depths[parent]
        depths.append(above + len(node.tokens))
        if node.labels is not None:
            found += int(np.count_nonzero(node.labels[above == 0 :] != IGNORE))
        found += node.end_target is not None
    return found


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
def taking(seen: Seen) -> Iterator[None]:
    """Whatever is raised in this block becomes a ``DataError`` that names example and medium."""
    try:
        yield
    except TreepackError:
        raise
    except Exception as error:
        medium = seen.medium
        raise DataError(
            f"{seen.example}: the processor does not take {medium.kind} {show(medium.value)}: "
            f"{cut(str(error))}"
        ) from error
