"""Conversations in tokens, in the markup of a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from treepack.errors import FamilyError
from treepack.families.chat_format import MeasuredBranch, Written, measured_branch, weights_of
from treepack.families.encode import count_all, encode_all
from treepack.families.markup import MARK, Markup, Shape
from treepack.sources.conversations import Conversations
from treepack.sources.records.base import Turn
from treepack.tree import IGNORE


class MarkupSource(Protocol):
    """A `Template`, or a `FormatMarkup`."""

    def cut(self, shape: Shape) -> Markup:
        """The markup of a conversation of this shape."""

    def trim(self, role: str, text: str) -> str:
        """A text as the template writes it."""


class TurnWriter:
    """Turns conversations into tokens and labels.

    Trained on are the answers, and after each of them the first token of the markup that follows,
    which ends the turn; behind the last answer it is the target of the token before it, and never
    enters the row. What people and models say is data: a special token spelt out in it stays
    ordinary text.

    Args:
        tokenizer: Hugging Face tokenizer.
        source: the markup.
    """

    def __init__(self, tokenizer: Any, source: MarkupSource) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self._markup: dict[str, list[int]] = {}
        self._known: dict[Shape, tuple[list[int], list[int]]] = {}
        # Tokens of MARK, if this tokenizer takes the beginning of a text for that of a word.
        self._lead = self._find_lead()

    def shape(self, conversations: Conversations, turns: int) -> Shape:
        """What the markup of one conversation of an example depends on."""
        kinds = tuple(medium.kind for medium in conversations.media)
        texts = tuple(bool(text) for text in conversations.texts)
        return Shape(kinds, texts, bool(conversations.system), turns)

    def start(self, conversations: Conversations) -> tuple[tuple[str, ...], list[list[int]]]:
        """Markup before the first question, in pieces, and the tokens of what goes between them.

        Raises:
            FamilyError: the template begins conversations of different lengths differently.
        """
        pieces, said = self.start_texts(conversations)
        return pieces, self.texts(said)

    def measure_start(self, conversations: Conversations) -> tuple[tuple[str, ...], list[int]]:
        """What `start` gives, with the number of tokens in place of the tokens."""
        pieces, said = self.start_texts(conversations)
        return pieces, self.counts(said)

    def start_texts(self, conversations: Conversations) -> tuple[tuple[str, ...], list[str]]:
        """Markup before the first question, in pieces, and what is said between them."""
        lengths = {len(turns) for turns in conversations.branches}
        starts = {self.source.cut(self.shape(conversations, n)).start for n in sorted(lengths)}
        if len(starts) > 1:
            raise FamilyError(
                f"the chat template begins conversations of {sorted(lengths)} turns differently, "
                "so they share no root; pass chat=, or make an example of each length"
            )
        said = [("system", conversations.system), *(("user", t) for t in conversations.texts)]
        return starts.pop(), [self.source.trim(role, text) for role, text in said if text]

    def branches(self, conversations: Conversations) -> list[Written]:
        """Each conversation from its first question on."""
        said = iter(self.texts(self._said(conversations)))
        return [self._write(conversations, each, said) for each in conversations.branches]

    def measure(self, conversations: Conversations) -> list[MeasuredBranch]:
        """What `branches` writes, in numbers."""
        counts = iter(self.counts(self._said(conversations)))
        turns = {len(each) for each in conversations.branches}
        lengths = {n: self._lengths(self.shape(conversations, n)) for n in turns}
        return [
            measured_branch(each, counts, 0, *lengths[len(each)]) for each in conversations.branches
        ]

    def _said(self, conversations: Conversations) -> list[str]:
        trim = self.source.trim
        turns = [turn for each in conversations.branches for turn in each]
        pairs = [(trim("user", turn.question), trim("assistant", turn.answer)) for turn in turns]
        return [text for pair in pairs for text in pair]

    def _lengths(self, shape: Shape) -> tuple[list[int], list[int]]:
        """How many tokens the markup has behind each question, and behind each answer."""
        if shape not in self._known:
            markup = self.source.cut(shape)
            between = [len(self.markup(text)) for text in markup.between]
            self._known[shape] = between, [len(self._after(text)) for text in markup.after]
        return self._known[shape]

    def _write(
        self, conversations: Conversations, turns: Sequence[Turn], said: Iterator[list[int]]
    ) -> Written:
        markup = self.source.cut(self.shape(conversations, len(turns)))
        tokens: list[int] = []
        labels: list[int] = []
        starts: list[int] = []
        cuts: list[int] = []

        def put(ids: list[int], is_trained: bool = False) -> None:
            tokens.extend(ids)
            labels.extend(ids if is_trained else [IGNORE] * len(ids))

        for place, turn in enumerate(turns):
            if place:
                after = self._after(markup.after[place - 1])
                put(after[:1], is_trained=turns[place - 1].weight != 0)
                starts.append(len(tokens))
                put(after[1:])
            else:
                starts.append(0)
            put(next(said))
            put(self.markup(markup.between[place]))
            cuts.append(len(tokens))
            put(next(said), is_trained=turn.weight != 0)
            cuts.append(len(tokens))
        end = self._after(markup.after[-1])[0] if turns[-1].weight else None
        weights = weights_of(turns, [*starts, len(tokens)])
        return Written(tokens, labels, weights, end, tuple(cuts))

    def whole(self, conversations: Conversations, turns: Sequence[Turn]) -> str:
        """One conversation as text, with media as their placeholders."""
        markup = self.source.cut(self.shape(conversations, len(turns)))
        said = [text for text in (conversations.system, *conversations.texts) if text]
        pieces = [markup.start[0]]
        for text, piece in zip(said, markup.start[1:], strict=True):
            pieces += [text, piece]
        for turn, between, after in zip(turns, markup.between, markup.after, strict=True):
            pieces += [turn.question, between, turn.answer, after]
        return "".join(pieces)

    def markup(self, text: str) -> list[int]:
        """Tokens of markup, in which special tokens are meant."""
        if text not in self._markup:
            self._markup[text] = self._encode([text])[0]
        return self._markup[text]

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of what is said, text by text; special tokens are letters like any other there."""
        return self._encode(texts, is_data=True)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each of several texts has."""
        if not self._lead:
            return count_all(self.tokenizer, texts, is_data=True)
        return [len(ids) for ids in self.texts(texts)]

    def _encode(self, texts: Sequence[str], is_data: bool = False) -> list[list[int]]:
        if self._lead:
            texts = [text and MARK + text for text in texts]
        return [ids[len(self._lead) :] for ids in encode_all(self.tokenizer, texts, is_data)]

    def _after(self, text: str) -> list[int]:
        """Tokens of the markup behind an answer; the end-of-sequence token if there is none."""
        ids = self.markup(text)
        if ids:
            return ids
        if self.tokenizer.eos_token_id is None:
            raise FamilyError(
                "the chat template writes nothing behind an answer, and the "
                "tokenizer has no EOS token; pass chat= with an end"
            )
        return [int(self.tokenizer.eos_token_id)]

    def _find_lead(self) -> list[int]:
        def encode(text: str) -> list[int]:
            return list(self.tokenizer.encode(text, add_special_tokens=False))

        alone, mark, both = encode("x"), encode(MARK), encode(f"{MARK}x")
        is_lead = both[: len(mark)] == mark and both[len(mark) :] != alone
        return mark if is_lead else []
