"""Families whose roots the processor itself makes; what it cannot be asked is declared."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, cast

import numpy as np

from treepack.errors import FamilyError
from treepack.families.base import Array, Family, Int64, Seen, taking
from treepack.families.chat_format import ChatFormat, MeasuredBranch, Written
from treepack.families.joins import Join, join
from treepack.families.markup import FormatMarkup, render_whole, template_of
from treepack.families.roots import MOST_MEASURED, LoadedRoot, MeasuredRoot, Root, token_runs
from treepack.families.row_inputs import Filler
from treepack.families.turns import TurnWriter
from treepack.options import MediumKind
from treepack.sources.conversations import Conversations, Medium
from treepack.sources.images import load_image, load_rgb
from treepack.sources.records.base import Turn
from treepack.sources.videos import load_frames
from treepack.tree import MessageTree

TYPES = "token_type_ids"
"""How names of inputs end that have an entry for each token of the row."""

LEFT_OUT = ("attention_mask", "labels")


class ProcessorFamily(Family):
    """A family that lets the model's own processor make the root, from text and media at once.

    So tokens, crops and grids are the processor's by construction, whatever its settings. To
    measure without decoding, the processor is shown black media of the same size; what they cost is
    kept, by size.

    Attributes:
        joins: how inputs are joined over the examples of a row, where that is not on their first
            axis.
        nests_images: whether the processor is given a list of the images of each text, or of all.
        not_inputs: what the processor gives beside the model's inputs.
        smallest: height and width of the smallest medium, frames before them for a video.

    Args:
        processor: Hugging Face processor of the model, or tokenizer of a text model.
        chat: how turns are written; by default as in the chat template.

    Raises:
        FamilyError: neither a chat template nor ``chat``.

    Example:
        A text model needs no declaration at all; its tokenizer is here a stub:

        >>> import torch
        >>> class Tokenizer:
        ...     chat_template, bos_token, pad_token, unk_token = "...", None, None, None
        ...     eos_token, eos_token_id = "$", 36
        ...     def encode(self, text, **_):
        ...         return list(text.encode())
        ...     def convert_tokens_to_ids(self, token):
        ...         return ord(token)
        ...     def __call__(self, text, return_tensors=None, **_):
        ...         ids = [self.encode(each) for each in text]
        ...         return {"input_ids": torch.tensor(ids) if return_tensors else ids}
        ...     def apply_chat_template(self, messages, tokenize):
        ...         return "".join(f"{m['role'][0]}:{m['content']}$" for m in messages)
        >>> class Texts(ProcessorFamily):
        ...     name, media_names, costs = "texts", {}, ("tokens",)
        >>> tree = Texts(Tokenizer()).load(Conversations([[("What?", "A cat.")]]))
        >>> bytes(tree.tokens.tolist()), tree.end_target
        (b'u:What?$a:A cat.', 36)
    """

    joins: ClassVar[Mapping[str, Join]] = {}
    nests_images: ClassVar[bool] = True
    not_inputs: ClassVar[tuple[str, ...]] = ()
    smallest: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "image": (32, 32),
        "video": (1, 32, 32),
    }
    default_fps: float = 24.0

    def __init__(self, processor: Any, chat: ChatFormat | None = None) -> None:
        super().__init__(processor, chat)
        self.writer: TurnWriter = self._writer(chat)
        self._measured: dict[Any, MeasuredRoot] = {}
        self._fill: dict[str, Filler] = {}

    def _writer(self, chat: ChatFormat | None) -> TurnWriter:
        return TurnWriter(self.tokenizer, self._source(chat))

    def _source(self, chat: ChatFormat | None) -> Any:
        if chat is not None:
            return FormatMarkup(chat, self.placeholders(), self.tokenizer.eos_token or "")
        template = template_of(self.processor, has_parts=bool(self.media_names))
        if template is None:
            raise FamilyError(
                f"{type(self.processor).__name__} has no chat template; set its chat_template, or "
                "pass chat=treepack.families.ChatFormat(...)"
            )
        return template

    def placeholders(self) -> dict[str, str]:
        """What stands for a medium of each kind in a text that the processor is given."""
        found = {
            kind: getattr(self.processor, f"{kind}_token", None) for kind in ("image", "video")
        }
        return {kind: str(token) for kind, token in found.items() if token}

    def feature_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that stand for features of the vision tower."""
        names = ("image_token_id", "video_token_id")
        found = (getattr(self.processor, name, None) for name in names)
        return tuple(int(token) for token in found if token is not None)

    def units(self, arrays: Mapping[str, Array]) -> int:
        """What the media of one example take of the budget ``vision_cost``.

        Args:
            arrays: their model inputs, by name; none without media.

        Returns:
            By default entries of the pixels, along the axis on which they are joined.
        """
        names = [name for name, array in arrays.items() if array.dtype.kind == "f"]
        return sum(arrays[name].shape[self.joins.get(name, Join()).axis] for name in names)

    def recast(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """The processor's arrays under the names under which a row passes them to the model.

        Args:
            arrays: all that the processor gave but tokens.
        """
        return arrays

    def root_positions(self, made: Mapping[str, Array]) -> Int64 | None:  # noqa: ARG002
        """Position ids of a root, int ``[A, n]`` on ``A`` axes; ``None`` counts from 0.

        Args:
            made: what the processor gave, before `recast`, and ``input_ids``; those arrays that
                have an entry for each token have one for what is said, too.
        """
        return None

    def join(self, parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """One set of model inputs from those of several examples, in order."""
        return join(self.joins, [_without_types(part) for part in parts])

    def measure_root(self, conversations: Conversations, seen: Sequence[Seen]) -> MeasuredRoot:
        """Tokens and costs of the root, from black media of the same size."""
        pieces, said = self.writer.measure_start(conversations)
        key = pieces, tuple(_size(medium) for medium in seen)
        if key not in self._measured:
            black = [_black(medium) for medium in seen]
            tokens, made = self._ask(pieces, [[]] * len(said), seen, black)
            if len(self._measured) >= MOST_MEASURED:
                self._measured.clear()
            self._measured[key] = MeasuredRoot(len(tokens), self._costs(made), self._runs(tokens))
        bare = self._measured[key]
        return bare._replace(n_tokens=bare.n_tokens + sum(said))

    def load_root(self, conversations: Conversations, seen: Sequence[Seen]) -> LoadedRoot:
        """The root as the processor makes it, with texts between media as data."""
        pieces, texts = self.writer.start(conversations)
        values = [self.load_medium(medium) for medium in seen]
        tokens, made = self._ask(pieces, texts, seen, values)
        return self._loaded(Root(tokens, self._runs(tokens)), made)

    def _loaded(self, root: Root, made: dict[str, Array]) -> LoadedRoot:
        return LoadedRoot(
            root,
            self.recast({k: v for k, v in made.items() if k not in self.not_inputs}),
            self.root_positions({**made, "input_ids": root.tokens[None]}),
            self._costs(made),
        )

    def prompt_root(self, tokens: Int64, arrays: Mapping[str, Array]) -> LoadedRoot:
        """The root of a prompt as the processor made it, tokens and media."""
        made = {name: array for name, array in arrays.items() if name not in LEFT_OUT}
        if not any(name.endswith(TYPES) for name in made):
            made |= _types(self.processor, tokens)
        root = Root(tokens, self._runs(tokens))
        return self._loaded(root, made)

    def branches(self, conversations: Conversations) -> list[Written]:
        """Each conversation, written behind the root."""
        return self.writer.branches(conversations)

    def measure_branches(self, conversations: Conversations) -> list[MeasuredBranch]:
        """How many tokens and targets each conversation has."""
        if type(self).branches is not ProcessorFamily.branches:
            return super().measure_branches(conversations)
        return self.writer.measure(conversations)

    def render(
        self, conversations: Conversations, turns: Sequence[Turn]
    ) -> dict[str, Array] | None:
        """The chat template and the processor, asked for one whole conversation."""
        seen = self._see(conversations)
        if self.chat is None:
            text = render_whole(self.processor, conversations, turns)
        else:
            text = self.writer.whole(conversations, turns)
        return self._call(text, seen, [self.load_medium(medium) for medium in seen], begins=text)

    def collate(
        self, trees: Sequence[MessageTree], total: int, fill: Any = False
    ) -> dict[str, Array]:
        """Model inputs of the media, and those with an entry for each token, int ``[1, total]``."""
        arrays = super().collate(trees, total, fill)
        names = {name for tree in trees for name in tree.media or () if name.endswith(TYPES)}
        for name in sorted(names):
            row, used = np.zeros((1, total), np.int64), 0
            for tree in trees:
                types = (tree.media or {}).get(name)
                if types is not None:
                    row[0, used : used + types.shape[1]] = types[0]
                used += tree.n_tokens
            arrays[name] = row
        return arrays

    def smallest_medium(self, kind: str) -> Filler:
        """A black medium of the size in ``smallest``, without the text around it."""
        if kind not in self._fill:
            *frames, height, width = self.smallest[kind]
            black = np.zeros((*frames, height, width, 3), np.uint8)
            example = Conversations([[Turn("", "")]], [Medium(cast("MediumKind", kind), black)])
            made = self.load_root(example, self._see(example))
            features = np.isin(made.root.tokens, self.feature_ids())
            tokens = made.root.tokens[features]
            cost = {"tokens": len(tokens), **made.costs}
            self._fill[kind] = Filler(tokens, cost, _without_types(made.media))
        return self._fill[kind]

    def load_medium(self, seen: Seen) -> Any:
        """The pixels of a medium, or of the frames of a video that are seen.

        Args:
            seen: the medium, opened.
        """
        value, name = seen.medium.value, seen.example
        with taking(seen):
            if seen.clip is not None:
                return load_frames(value, seen.frames, name)
            image = load_image(value, name)
            converts = getattr(self.processor.image_processor, "do_convert_rgb", False)
            if image.mode == "RGB" or converts:
                return image
            # A copy: torch warns of arrays that it could write to and must not.
            return np.array(load_rgb(value, name))

    def _costs(self, made: Mapping[str, Array]) -> dict[str, int]:
        if not self.media_names:
            return {}
        return {self.vision_cost: self.units(_without_types(self.recast(dict(made))))}

    def _runs(self, tokens: Int64) -> Int64:
        """Stretches of tokens that stand for features, int ``[R, 3]``; each is an image."""
        return token_runs(np.isin(tokens, self.feature_ids()))

    def _ask(
        self,
        pieces: Sequence[str],
        texts: Sequence[Sequence[int]],
        seen: Sequence[Seen],
        values: Sequence[Any],
    ) -> tuple[Int64, dict[str, Array]]:
        """Tokens int ``[n]`` and arrays of a root.

        What is said goes in afterwards, as tokens, where a special token was put for it: so the
        processor cannot take it for a placeholder.
        """
        slot = self._slot()
        asked = slot.join(pieces)
        first = seen[0] if seen else None
        with nullcontext() if first is None else taking(first):
            made = self._call(asked, seen, values, begins=pieces[0])
        ids = made.pop("input_ids")[0]
        made = made if seen else {}
        at = self._slots(ids, slot, pieces)
        tokens = _spliced(ids, at, [np.array(text, np.int64) for text in texts])
        types = {name: array for name, array in made.items() if name.endswith(TYPES)}
        for name, array in types.items():
            zeros = [np.zeros(len(text), array.dtype) for text in texts]
            made[name] = _spliced(array[0], at, zeros)[None]
        return tokens, made

    def _call(
        self,
        text: str,
        seen: Sequence[Seen],
        values: Sequence[Any],
        begins: str,
        **options: Any,
    ) -> dict[str, Array]:
        """What the processor makes of a text, which begins as the template wrote it, and media."""
        bos = getattr(self.tokenizer, "bos_token", None)
        # A processor writes its own where the template does not; a tokenizer alone never does.
        is_bare = self.tokenizer is self.processor
        if is_bare or (bos and begins.startswith(bos)):
            options["add_special_tokens"] = False
        pairs = list(zip(seen, values, strict=True))
        images = [value for medium, value in pairs if medium.clip is None]
        videos = [(medium, value) for medium, value in pairs if medium.clip is not None]
        if images:
            options["images"] = [images] if self.nests_images else images
        if videos:
            options["videos"] = [[value for _, value in videos]]
            options["video_metadata"] = [[_metadata(medium) for medium, _ in videos]]
            options["do_sample_frames"] = False
        made = self.processor(text=[text], **options, return_tensors="pt")
        left_out = [name for name in made if name in LEFT_OUT or not hasattr(made[name], "numpy")]
        return {name: _array(made[name]) for name in made if name not in left_out}

    def _slot(self) -> str:
        tokenizer = self.tokenizer
        taken = {*self.placeholders().values(), None}
        found = [tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token]
        found = [token for token in found if token not in taken]
        # A processor may look whether a text begins with BOS.
        for token in sorted(found, key=lambda token: token == tokenizer.bos_token):
            return str(token)
        raise FamilyError(f"{type(tokenizer).__name__} has none of the tokens EOS, PAD and UNK")

    def _slots(self, ids: Int64, slot: str, pieces: Sequence[str]) -> Int64:
        """Where in the ids the special token stands that was put for what is said."""
        slot_id = self.tokenizer.convert_tokens_to_ids(slot)
        found = np.flatnonzero(ids == slot_id)
        written = [piece.count(slot) for piece in pieces]
        places = np.cumsum(written)[:-1] + np.arange(len(pieces) - 1)
        # The processor may begin with a token of its own, which may be the same one.
        extra = len(found) - sum(written) - len(pieces) + 1
        if extra not in (0, 1) or (extra and (not len(found) or found[0] != 0)):
            raise FamilyError(
                f"{type(self.processor).__name__} writes {slot!r} by itself, so it is not known "
                "where the texts of an example go"
            )
        where: Int64 = found[places + extra]
        return where


def _spliced(ids: Array, at: Int64, texts: Sequence[Array]) -> Array:
    """Ids with each text in place of the token at a position."""
    pieces, used = [], 0
    for place, text in zip(at.tolist(), texts, strict=True):
        pieces += [ids[used:place], text]
        used = place + 1
    return np.concatenate([*pieces, ids[used:]])


def _types(processor: Any, tokens: Int64) -> dict[str, Array]:
    """Which tokens stand for media, as the processor itself would say it."""
    ask = getattr(processor, "create_mm_token_type_ids", None)
    if ask is None or len(inspect.signature(ask).parameters) > 1:
        return {}
    return {"mm_token_type_ids": np.array(ask([tokens.tolist()]), np.int64)}


def _without_types(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if not name.endswith(TYPES)}


def _array(tensor: Any) -> Array:
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    array: Array = tensor.numpy()
    return array


def _size(seen: Seen) -> tuple[Any, ...]:
    times = tuple(seen.seconds.tolist())
    return seen.medium.kind, seen.height, seen.width, times, seen.clip and seen.clip.fps


def _black(seen: Seen) -> Any:
    import PIL.Image

    if seen.clip is None:
        # As load_image gives it: of an array of 3 rows, processors take the rows for channels.
        return PIL.Image.new("RGB", (seen.width, seen.height))
    return np.zeros((len(seen.frames), seen.height, seen.width, 3), np.uint8)


def _metadata(seen: Seen) -> Any:
    from transformers.video_utils import VideoMetadata

    frames, fps = (seen.clip.frames, seen.clip.fps or 1.0) if seen.clip else (1, 1.0)
    return VideoMetadata(
        total_num_frames=frames,
        fps=fps,
        duration=frames / fps,
        frames_indices=np.rint(seen.seconds * fps).astype(int).tolist(),
        height=seen.height,
        width=seen.width,
    )
