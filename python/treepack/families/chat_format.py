"""How conversations are written for a model: markup around what is said, and what is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import FamilyError
from treepack.families.encode import count_all, encode_all
from treepack.sources.records.base import Turn
from treepack.tree import IGNORE


@dataclass(frozen=True)
class ChatFormat:
    r"""The markup of a conversation.

    A turn is written ``user + question + assistant + answer``; the answer and the end-of-turn token
    after it are trained on, everything else is given. The end-of-turn token of the last answer is
    the target of the token before it and never enters the row. Special tokens count as such in the
    markup alone; what is spelt out in a question or an answer stays ordinary text. The
    weight of a turn is that of its answer and of the end of turn after it; with weight 0 neither is
    trained on.

    Args:
        user: text before a question.
        assistant: text between a question and its answer.
        end: text after an answer, one token; by default the end-of-sequence token of the tokenizer.
        separator: text between ``end`` and the next turn.
        system: text before the system text.
        system_end: text after it.
        media_first: whether images stand before ``user`` and not after it.

    Example:
        >>> chat = ChatFormat(user="Q: ", assistant="\nA: ")
        >>> "".join([chat.user, "What is it?", chat.assistant, "A cat."])
        'Q: What is it?\nA: A cat.'
    """

    user: str
    assistant: str
    end: str | None = None
    separator: str = "\n"
    system: str = ""
    system_end: str = "\n"
    media_first: bool = False


CHATML = ChatFormat(
    user="<|im_start|>user\n",
    assistant="<|im_end|>\n<|im_start|>assistant\n",
    end="<|im_end|>",
    system="<|im_start|>system\n",
    system_end="<|im_end|>\n",
)
"""What Qwen's and Molmo2's chat templates write."""

PLAIN = ChatFormat(user="User: ", assistant="\nAssistant:\n")
"""For tokenizers without ChatML's special tokens."""


def token_id(tokenizer: Any, token: str) -> int | None:
    """The id of a token, or ``None`` if the tokenizer does not have it."""
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == tokenizer.unk_token_id else int(found)


def suitable_format(tokenizer: Any) -> ChatFormat:
    """ChatML where the tokenizer knows its special tokens, else plain words."""
    return CHATML if token_id(tokenizer, "<|im_start|>") is not None else PLAIN


class Written(NamedTuple):
    """A conversation in tokens, as the arguments of a `MessageTree`.

    Attributes:
        tokens: ``[n]``.
        labels: ``[n]``, the token where it is trained on, else -100.
        weight: loss weight of all labels, or float32 ``[n]`` where turns differ.
        end_target: the end of the last turn, or ``None`` if that turn is not trained on.
        cuts: places behind each question, with the markup up to its answer, and behind each answer:
            as far as these conversations may share what they begin with. None shares nothing.
    """

    tokens: list[int]
    labels: list[int]
    weight: float | npt.NDArray[np.float32]
    end_target: int | None
    cuts: tuple[int, ...] = ()


class MeasuredBranch(NamedTuple):
    """What is known of a conversation in tokens before it is written.

    Attributes:
        n_tokens: how many it has.
        n_targets: how many are trained on, with the end of the last turn.
        begins_trained: whether the first token is; it counts only if a root stands before it.
    """

    n_tokens: int
    n_targets: int
    begins_trained: bool

    @classmethod
    def of(cls, written: Written) -> MeasuredBranch:
        """That of a conversation that was written."""
        labels = written.labels
        trained = len(labels) - labels.count(IGNORE) + (written.end_target is not None)
        return cls(len(labels), trained, bool(labels) and labels[0] != IGNORE)


class ChatWriter:
    """Turns conversations into tokens and labels.

    What people and models say is data: a special token spelt out in it stays ordinary text, so
    that nothing said can forge an image or the end of a turn.

    Args:
        tokenizer: Hugging Face tokenizer.
        chat: the markup.

    Raises:
        FamilyError: an end of turn that is not one token.
    """

    def __init__(self, tokenizer: Any, chat: ChatFormat) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self._markup: dict[str, list[int]] = {}
        self.end: int = self._end()

    def markup(self, text: str) -> list[int]:
        """Tokens of markup, in which special tokens are meant."""
        if text not in self._markup:
            self._markup[text] = encode_all(self.tokenizer, [text])[0]
        return self._markup[text]

    def text(self, text: str) -> list[int]:
        """Tokens of what somebody says, in which special tokens are letters like any other."""
        return self.texts([text])[0]

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of several texts, each as of `text`."""
        return encode_all(self.tokenizer, texts, is_data=True)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each of several texts has."""
        return count_all(self.tokenizer, texts, is_data=True)

    def system(self, text: str) -> list[int]:
        """Tokens of the system text, none if it is empty."""
        if not text:
            return []
        return [
            *self.markup(self.chat.system),
            *self.text(text),
            *self.markup(self.chat.system_end),
        ]

    def turns(self, turns: Sequence[Turn], is_open: bool) -> Written:
        """Write one conversation.

        Args:
            turns: its turns; a pair of texts has weight 1.
            is_open: ``user`` of the first turn stands before it already.
        """
        return self.branches([turns], is_open)[0]

    def branches(self, branches: Sequence[Sequence[Turn]], is_open: bool) -> list[Written]:
        """Write several conversations, each as `turns` does."""
        said = [text for turns in branches for turn in turns for text in turn[:2]]
        ids = iter(self.texts(said))
        return [self._write([Turn(*turn) for turn in turns], ids, is_open) for turns in branches]

    def measure(self, branches: Sequence[Sequence[Turn]], is_open: bool) -> list[MeasuredBranch]:
        """What `branches` writes, in numbers."""
        said = [text for turns in branches for turn in turns for text in turn[:2]]
        counts = iter(self.counts(said))
        user, between, separator = (
            len(self.markup(text))
            for text in (self.chat.user, self.chat.assistant, self.chat.separator)
        )
        head, after = 0 if is_open else user, 1 + separator + user
        return [
            measured_branch(turns, counts, head, [between] * len(turns), [after] * len(turns))
            for turns in branches
        ]

    def _write(self, turns: Sequence[Turn], said: Iterator[list[int]], is_open: bool) -> Written:
        tokens: list[int] = []
        labels: list[int] = []
        starts: list[int] = []
        cuts: list[int] = []

        def write(ids: list[int], is_trained: bool = False) -> None:
            tokens.extend(ids)
            labels.extend(ids if is_trained else [IGNORE] * len(ids))

        for place, turn in enumerate(turns):
            if place:
                write([self.end], is_trained=turns[place - 1].weight != 0)
            starts.append(len(tokens))
            if place:
                write(self.markup(self.chat.separator))
            if place or not is_open:
                write(self.markup(self.chat.user))
            write(next(said))
            write(self.markup(self.chat.assistant))
            cuts.append(len(tokens))
            write(next(said), is_trained=turn.weight != 0)
            cuts.append(len(tokens))
        weights = weights_of(turns, [*starts, len(tokens)])
        end = self.end if turns[-1].weight else None
        return Written(tokens, labels, weights, end, tuple(cuts))

    def _end(self) -> int:
        if self.chat.end is None:
            if self.tokenizer.eos_token_id is None:
                raise FamilyError("the tokenizer has no EOS token; set ChatFormat.end")
            return int(self.tokenizer.eos_token_id)
        ids = self.markup(self.chat.end)
        if len(ids) != 1:
            raise FamilyError(
                f"ChatFormat.end must be one token, {self.chat.end!r} is {len(ids)}; add it to the "
                "tokenizer as a special token or use another"
            )
        return ids[0]


def measured_branch(
    turns: Sequence[Turn],
    counts: Iterator[int],
    head: int,
    between: Sequence[int],
    after: Sequence[int],
) -> MeasuredBranch:
    """A conversation in numbers, from how many tokens its parts have.

    Args:
        turns: of the conversation; pairs of texts have weight 1.
        counts: of each question and each answer, in order.
        head: of the markup before the first question.
        between: of the markup from each question to its answer.
        after: of the markup behind each answer, of which the first token ends the turn.
    """
    n_tokens, n_targets, given = head, 0, 0
    for place, turn in enumerate(turns):
        n_tokens += after[place - 1] if place else 0
        n_tokens += next(counts) + between[place]
        given = given if place else n_tokens
        answer = next(counts)
        n_tokens += answer
        n_targets += answer + 1 if len(turn) < 3 or turn[2] else 0
    is_trained = len(turns[0]) < 3 or bool(turns[0][2])
    return MeasuredBranch(n_tokens, n_targets, not given and n_tokens > 0 and is_trained)


def weights_of(turns: Sequence[Turn], edges: Sequence[int]) -> Any:
    """One number if all turns that are trained on agree, else one for each token.

    Args:
        turns: of one conversation.
        edges: where the tokens of each begin, and where those of the last end.
    """
    weights = [float(turn.weight) for turn in turns]
    different = set(weights) - {0.0}
    if len(different) > 1:
        return np.repeat(np.array(weights, np.float32), np.diff(edges))
    return different.pop() if different else 1.0
