"""Find out what a family has to declare, from a processor and a model, and prove it on them."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from treepack.check.exact import check_exact, without_dropout
from treepack.errors import DataError, FamilyError
from treepack.families.base import Family
from treepack.families.by_processor import TYPES
from treepack.families.chat_format import ChatFormat
from treepack.families.joins import Join, join
from treepack.families.learned import Facts, LearnedFamily
from treepack.hf.model import is_packed, prepare, restore
from treepack.options import Bidirectional, MediumKind
from treepack.sources.conversations import Conversations, Medium
from treepack.sources.media import cut
from treepack.sources.records.base import Turn

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

SIZES = ((240, 366), (582, 138), (198, 198), (900, 300), (64, 640), (33, 47), (1000, 1400))
"""Heights and widths of images that fall into unequal numbers of tiles, where there are tiles."""

FRAMES = ((16, 24, 32), (16, 16, 16))
"""Frames of films: unequal ones first; some models take films of one length only."""

GROUPS: tuple[Bidirectional, ...] = ("none", "within_image", "image_tokens", "within_image_sliding")
"""Which image tokens may see later ones."""

SAME = 1e-5
"""How far features may be from those of each medium alone, as a part of the largest."""


class Media(NamedTuple):
    """Media of one kind that rows are made of.

    Attributes:
        first: of one example.
        second: of another.
        third: beside the second, where examples may have several.
        others: of still other sizes, for what is joined.
        pads: whether they are unequal, so that it shows if padding is wrong.
    """

    first: Medium
    second: Medium
    third: Medium | None
    others: tuple[Medium, ...] = ()
    pads: bool = True


def learn(processor: Any, model: nn.Module, chat: ChatFormat | None = None) -> Family:
    """A family for a model that none is declared for: asked, tried, and proved.

    How inputs are joined is found by comparing the vision tower's features of two media in one row
    with those of each alone; which image tokens see later ones, and everything else, by
    `check_exact` on rows that cannot be misread: text between two images, media of unequal sizes,
    branches of several turns, a text alone. What is returned has passed it, on this processor and
    this model, in the model's dtype.

    Args:
        processor: Hugging Face processor with a chat template, or a tokenizer.
        model: of transformers, with its weights; a small copy with random weights in float64 says
            most. It is left as it was.
        chat: how turns are written; by default as in the chat template.

    Returns:
        A family that needs no model any more: it can be pickled, and saved with ``to_dict``. A kind
        of media that does not work is rejected by name when an example has it.

    Raises:
        FamilyError: images cannot be packed exactly; the message says what differed.
        AttentionError: `treepack.hf.prepare` rejects the model.

    Example:
        >>> import treepack as tp
        >>> family = tp.families.learn(processor, model)  # doctest: +SKIP
        >>> dataset = tp.PackedDataset(source, family=family, budgets=budgets)  # doctest: +SKIP
    """
    if not is_packed(model):
        # A model that is rejected, or a missing package, is no fact about the processor.
        restore(prepare(model, unchecked=True))
    with without_dropout(model):
        return LearnedFamily(processor, _learn(processor, model, chat), chat)


def _learn(processor: Any, model: nn.Module, chat: ChatFormat | None) -> Facts:
    learner = _Learner(processor, model, chat)
    facts = learner.bare()
    if hasattr(processor, "tokenizer"):
        flat = facts._replace(nests_images=False)
        facts = learner.with_kind(facts, "image")
        if "image" in facts.rejected:
            tried = learner.with_kind(flat, "image")
            facts = facts if "image" in tried.rejected else tried
        if "image" in facts.rejected:
            raise FamilyError(
                f"{type(model).__name__} cannot be packed exactly with "
                f"{type(processor).__name__}: {facts.rejected['image']}"
            )
        if getattr(processor, "video_processor", None) is not None:
            facts = learner.with_mixed(learner.with_kind(facts, "video"))
    else:
        family = LearnedFamily(processor, facts, chat)
        check_exact(model, family, [_text(), _branches()], gradients=False)
    return facts


class _Learner:
    """Tries what a family could declare.

    Args:
        processor: as for `learn`, like the others.
        model: the same.
        chat: the same.
    """

    def __init__(self, processor: Any, model: Any, chat: ChatFormat | None) -> None:
        self.processor, self.model, self.chat = processor, model, chat
        # The media of each kind on which a declaration was proved.
        self.proved: dict[str, Media] = {}

    def bare(self) -> Facts:
        """Before anything is known of media."""
        config = self.model.config
        names = [f"{kind}_token_{what}" for kind in ("image", "video") for what in ("id", "index")]
        found = {int(getattr(config, name, None) or 0) for name in names} - {0}
        return Facts(
            type(self.processor).__name__,
            {},
            features=tuple(sorted(found)),
            positions=_positions(self.model),
        )

    def with_kind(self, facts: Facts, kind: MediumKind) -> Facts:
        """What is known with one more kind of media, or why it does not work."""
        reason = ""
        for media in _media(kind):
            try:
                for tried in self._candidates(facts, kind, media):
                    why_not = self._try(tried, media)
                    if not why_not:
                        self.proved[kind] = media
                        several = () if media.third is None else (kind,)
                        return tried._replace(several=(*facts.several, *several))
                    # Of the most likely one.
                    reason = reason or why_not
            except Exception as error:
                # A processor may fail in any way on media that it does not take.
                reason = reason or f"{type(error).__name__}: {error}"
        reason = cut(reason) or "no way was found in which a row could join their arrays"
        return facts._replace(rejected={**facts.rejected, kind: reason})

    def with_mixed(self, facts: Facts) -> Facts:
        """Whether a row may have images and videos."""
        if "video" not in self.proved:
            return facts
        image, film = (self.proved[kind].first for kind in ("image", "video"))
        return facts._replace(mixes=not self._try(facts, Media(film, image, film)))

    def _try(self, facts: Facts, media: Media) -> str:
        """Why a declaration is wrong; empty if it is proved."""
        try:
            self._prove(facts, media)
        except AssertionError as error:
            return str(error)
        except Exception as error:
            # Joined in a wrong way, arrays make towers fail in ways of their own.
            return f"{type(error).__name__}: {error}"
        return ""

    def _candidates(self, facts: Facts, kind: str, media: Media) -> Iterator[Facts]:
        """Declarations that explain how media are joined, most likely ones first."""
        asked = facts._replace(media_names={kind: ("pixel_values",)})
        family = LearnedFamily(self.processor, asked, self.chat)
        made = [_made(family, medium) for medium in media[:2]]
        made += [each for medium in media.others for each in _tolerated(family, medium)]
        parts = [arrays for arrays, _ in made]
        # Beside the features there may be other tokens that see each other, such as line breaks.
        features = {token for _, marked in made for token in marked}
        facts = facts._replace(features=tuple(sorted({*facts.features, *features})))
        names = tuple(parts[0])
        known = dict(facts.media_names)
        # Frames of a film may be images to the model.
        if names not in known.values() or kind == "image":
            known[kind] = names
        for rules in self._joins(parts, kind, media.pads):
            joins = {name: rule for name, rule in rules.items() if rule != Join()}
            tried = facts._replace(media_names=known, joins={**facts.joins, **joins})
            if kind == "video":
                yield tried
                continue
            for groups in GROUPS:
                yield tried._replace(bidirectional=groups)

    def _joins(self, parts: Sequence[Arrays], kind: str, pads: bool) -> Iterator[dict[str, Join]]:
        tower = _tower(self.model, kind)
        every = {name: _distinct(name, parts, pads) for name in parts[0]}
        for rules in itertools.product(*every.values()):
            found = dict(zip(every, rules, strict=True))
            if tower is None or self._has_same_features(tower, found, parts):
                yield found

    def _has_same_features(
        self, tower: Any, rules: Mapping[str, Join], parts: Sequence[Arrays]
    ) -> bool:
        try:
            alone = torch.cat([_features(tower, part, self.model) for part in parts])
        except Exception:
            # It wants something else as well; the proof must do.
            return True
        try:
            together = _features(tower, join(rules, parts), self.model)
        except Exception:
            return False
        if together.shape != alone.shape:
            return False
        return bool((together - alone).abs().max() <= SAME * alone.abs().max() + _noise(alone))

    def _prove(self, facts: Facts, media: Media) -> None:
        allowed = facts._replace(several=("image", "video"))
        family = LearnedFamily(self.processor, allowed, self.chat)
        examples = [
            Conversations([_ask(1), _ask(2), _ask(1)], [media.first], key="one"),
            _text(),
            Conversations([_ask(1), _ask(1)], [media.second], key="other"),
        ]
        if media.third is not None:
            pair = [media.second, media.third]
            examples.append(
                Conversations([_ask(1), _ask(1)], pair, texts=["", "and this: "], key="pair")
            )
        for example in examples:
            measured, loaded = family.measure(example), family.load(example).cost
            if measured != loaded:
                raise AssertionError(
                    f"{example.key}: black media cost {measured}, real ones {loaded}"
                )
        check_exact(self.model, family, examples, gradients=False)


def _media(kind: MediumKind) -> Iterator[Media]:
    rng = np.random.default_rng(0)

    def medium(*shape: int) -> Medium:
        return Medium(kind, rng.integers(0, 255, (*shape, 3), dtype=np.uint8))

    if kind == "image":
        first, second, third, *others = (medium(*size) for size in SIZES)
        yield Media(first, second, third, (third, *others))
        yield Media(first, second, None, (third, *others))
        return
    for frames in FRAMES:
        first, second, third = (medium(n, *size) for n, size in zip(frames, SIZES, strict=False))
        pads = frames == FRAMES[0]
        yield Media(first, second, third, (third,), pads)
        yield Media(first, second, None, (third,), pads)


def _ask(turns: int) -> list[Turn]:
    return [Turn(f"What is number {n}?", f"It is {n} of {turns}.") for n in range(turns)]


def _text() -> Conversations:
    return Conversations([_ask(2)], key="text")


def _branches() -> Conversations:
    return Conversations([_ask(1), _ask(2), _ask(1)], key="branches")


def _made(family: LearnedFamily, medium: Medium) -> tuple[Arrays, set[int]]:
    """The arrays of a medium, and the tokens that the processor marks as those of media."""
    tree = family.load(Conversations([_ask(1)], [medium], key="probe"))
    media, marked = dict(tree.media or {}), set()
    for name in [name for name in media if name.endswith(TYPES)]:
        marked |= set(tree.tokens[media.pop(name)[0] > 0].tolist())
    return media, marked


def _tolerated(family: LearnedFamily, medium: Medium) -> list[tuple[Arrays, set[int]]]:
    """The same, and nothing where the processor does not take it."""
    try:
        return [_made(family, medium)]
    except DataError:
        return []


def _rules(name: str, parts: Sequence[Arrays]) -> Iterator[Join]:
    array = parts[0][name]
    yield Join()
    yield Join(fill=-1)
    yield Join(pads=False)
    yield from (Join(axis=axis) for axis in range(1, array.ndim))
    if array.dtype.kind in "iu":
        for other, pixels in parts[0].items():
            if pixels.dtype.kind == "f":
                yield from (Join(fill=-1, counts=(other, n)) for n in range(1, pixels.ndim))


def _distinct(name: str, parts: Sequence[Arrays], pads: bool) -> list[Join]:
    """The rules by which these arrays can be joined; of those that agree on them the first."""
    found: dict[tuple[Any, ...], Join] = {}
    for rule in _rules(name, parts):
        rule = rule._replace(pads=rule.pads and pads)
        try:
            made = join({name: rule}, parts)[name]
        except (FamilyError, ValueError):
            continue
        found.setdefault((made.shape, made.tobytes()), rule)
    return list(found.values())


def _tower(model: Any, kind: str) -> Any:
    """The method that gives the features of media, if the model has one."""
    for owner in (model, getattr(model, "model", None)):
        for name in (f"get_{kind}_features", "get_image_features"):
            if hasattr(owner, name):
                return getattr(owner, name)
    return None


def _features(tower: Any, arrays: Mapping[str, Array], model: nn.Module) -> torch.Tensor:
    takes = inspect.signature(tower).parameters
    weight = next(model.parameters())
    given = {}
    for name, array in arrays.items():
        if name in takes:
            tensor = torch.from_numpy(array).to(weight.device)
            given[name] = tensor.to(weight.dtype) if tensor.is_floating_point() else tensor
    if not given:
        raise TypeError("the tower takes none of these arrays")
    with torch.no_grad():
        made = tower(**given)
    made = getattr(made, "pooler_output", made)
    parts = made if isinstance(made, (list, tuple)) else [made]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _noise(features: torch.Tensor) -> float:
    return float(features.abs().max() * 100 * torch.finfo(features.dtype).eps)


def _positions(model: Any) -> tuple[str, str, str, str, str] | None:
    """Where position ids come from, where the model has a way of its own."""
    for owner in (model, getattr(model, "model", model)):
        if hasattr(owner, "get_rope_index"):
            kind, config = type(owner), type(owner.config)
            text = owner.config.to_json_string(use_diff=False)
            return kind.__module__, kind.__name__, config.__module__, config.__name__, text
    return None
