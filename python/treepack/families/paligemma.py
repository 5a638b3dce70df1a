"""PaliGemma: the image and the prompt see each other, both ways; the answer is causal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from treepack.errors import DataError, FamilyError
from treepack.families.base import Array, Int64, Seen
from treepack.families.by_processor import ProcessorFamily
from treepack.families.chat_format import ChatFormat, MeasuredBranch, Written
from treepack.families.turns import TurnWriter
from treepack.options import Bidirectional
from treepack.sources.conversations import Conversations
from treepack.sources.records.base import Turn
from treepack.tree import IGNORE, example_name


class PromptWriter(TurnWriter):
    """An image, a prompt and its answer; there is no chat.

    Args:
        tokenizer: of the processor.
        image: what stands for an image.
    """

    def __init__(self, tokenizer: Any, image: str) -> None:
        self.image = image
        # It has no template: pieces and answers are made here.
        super().__init__(tokenizer, None)  # type: ignore[arg-type]

    def start_texts(self, conversations: Conversations) -> tuple[tuple[str, ...], list[str]]:
        """The whole prompt: media, texts between them and the question.

        Raises:
            FamilyError: the branches do not share it.
            DataError: no image, or a system text.
        """
        question = _prompt(conversations)
        pieces, texts = [""], []
        for text in conversations.texts:
            if text:
                texts.append(text)
                pieces.append("")
            pieces[-1] += self.image
        if question:
            texts.append(question)
            pieces.append("")
        return tuple(pieces), texts

    def branches(self, conversations: Conversations) -> list[Written]:
        """The answers."""
        turns = [Turn(*turns[0]) for turns in conversations.branches]
        said = self.texts([turn.answer for turn in turns])
        return [self._answer(turn, tokens) for turn, tokens in zip(turns, said, strict=True)]

    def measure(self, conversations: Conversations) -> list[MeasuredBranch]:
        """The answers, in numbers."""
        return list(map(MeasuredBranch.of, self.branches(conversations)))

    def _answer(self, turn: Turn, tokens: list[int]) -> Written:
        is_trained = turn.weight != 0
        labels = list(tokens) if is_trained else [IGNORE] * len(tokens)
        weight = float(turn.weight) if is_trained else 1.0
        return Written(tokens, labels, weight, self.tokenizer.eos_token_id if is_trained else None)


class PaliGemma(ProcessorFamily):
    """PaliGemma of transformers (``PaliGemmaForConditionalGeneration``).

    Image and prompt see ahead, so both are the root, and only answers to one question are branches
    of one tree: ``group_conversations(..., by_question=True)``.
    """

    name = "paligemma"
    processors: ClassVar[tuple[str, ...]] = ("PaliGemmaProcessor",)
    vision_cost = "images"
    bidirectional: ClassVar[Bidirectional] = "prefix"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values",)}
    # The model makes a mask of them, and the row has its own.
    not_inputs: ClassVar[tuple[str, ...]] = ("token_type_ids",)

    def _writer(self, chat: ChatFormat | None) -> TurnWriter:
        if chat is not None:
            raise FamilyError("family 'paligemma' takes no chat=: its model reads one prompt")
        return PromptWriter(self.tokenizer, self.placeholders()["image"])

    def root_positions(self, made: dict[str, Array]) -> Int64 | None:  # type: ignore[override]
        """They count from 1."""
        return np.arange(1, made["token_type_ids"].shape[1] + 1)[None]

    def render(
        self, conversations: Conversations, turns: Sequence[Turn]
    ) -> dict[str, Array] | None:
        """The processor, asked for prompt and answer."""
        seen: list[Seen] = self._see(conversations)
        texts = "".join(text + self.placeholders()["image"] for text in conversations.texts)
        turn = Turn(*turns[0])
        images = [self.load_medium(medium) for medium in seen]
        text = texts + turn.question
        return self._call(text, seen, images, begins=text, suffix=[turn.answer])


def _prompt(conversations: Conversations) -> str:
    """The question that all branches share."""
    name = example_name(conversations.key)
    if not conversations.media:
        raise DataError(f"{name}: PaliGemma takes no example without an image; give it one")
    if conversations.system:
        raise DataError(
            f"{name}: PaliGemma reads a prompt and no system text; put it into the question"
        )
    lengths = {len(turns) for turns in conversations.branches}
    if lengths != {1}:
        raise FamilyError(
            f"{name}: a conversation has {max(lengths)} turns, and PaliGemma answers one prompt; "
            "make an example of each question and answer"
        )
    questions = {turns[0].question for turns in conversations.branches}
    if len(questions) > 1:
        raise FamilyError(
            f"{name}: its branches ask {len(questions)} questions, and PaliGemma's prompt sees "
            "ahead, so an example has one; group_conversations(..., by_question=True) makes an "
            "example of each"
        )
    return questions.pop()


FAMILY = PaliGemma
