"""What a chat template writes around what is said: cut out of the template by sentinels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from treepack.errors import FamilyError
from treepack.families.chat_format import ChatFormat
from treepack.sources.conversations import Conversations
from treepack.sources.media import cut
from treepack.sources.records.base import Turn

MARK = "\u241e"
"""A character of no language, the symbol for a record separator: what is said is cut at it."""


class Shape(NamedTuple):
    """What the markup of a conversation may depend on.

    Attributes:
        kinds: of the media, in order.
        texts: whether a text stands before each of them.
        has_system: whether a system text comes first.
        turns: how many there are. Some templates write the last answer otherwise.
    """

    kinds: tuple[str, ...]
    texts: tuple[bool, ...]
    has_system: bool
    turns: int


class Markup(NamedTuple):
    """The markup of a conversation of ``n`` turns.

    Attributes:
        start: what stands before the first question, in pieces; the system text and the texts
            before media, as far as there are any, go between them.
        between: ``n`` texts, from each question to its answer.
        after: ``n`` texts, behind each answer up to the next question.
    """

    start: tuple[str, ...]
    between: tuple[str, ...]
    after: tuple[str, ...]


class Template:
    """The markup that a chat template of transformers writes.

    The template is rendered with sentinels in the places of what people and models say, and cut
    there. So nothing is assumed of how it writes turns; only that it writes them in order, and each
    text once.

    Args:
        render: gives the text of messages, as ``processor.apply_chat_template(tokenize=False)``.
        has_parts: whether messages hold lists of parts, as processors take them, or texts.

    Example:
        >>> def render(messages):
        ...     return "".join(f"<{m['role']}>{m['content'].strip()}</s>" for m in messages)
        >>> template = Template(render, has_parts=False)
        >>> template.cut(Shape((), (), False, 2))
        Markup(start=('<user>',), between=('</s><assistant>', '</s><assistant>'), \
after=('</s><user>', '</s>'))
        >>> template.trim("user", " What? ")
        'What?'
    """

    def __init__(
        self, render: Callable[[list[dict[str, Any]]], str], has_parts: bool = True
    ) -> None:
        self._render = render
        self._has_parts = has_parts
        self._known: dict[Shape, Markup] = {}
        self._trimmed: dict[str, tuple[bool, bool]] = {}

    def cut(self, shape: Shape) -> Markup:
        """The markup of a conversation.

        Raises:
            FamilyError: the template rejects it, or does not write each text once and in order.
        """
        if shape not in self._known:
            self._known[shape] = self._cut(shape)
        return self._known[shape]

    def trim(self, role: str, text: str) -> str:
        """A text as the template writes it: some cut blanks off its ends.

        Args:
            role: ``"system"``, ``"user"`` or ``"assistant"``.
            text: what is said.
        """
        if text[:1].isspace() or text[-1:].isspace():
            left, right = self._trims(role)
            text = text.lstrip() if left else text
            return text.rstrip() if right else text
        return text

    def _trims(self, role: str) -> tuple[bool, bool]:
        if not self._trimmed:
            shape = Shape((), (), role == "system", 1)
            pieces = self._rendered(shape, " ").split(MARK)
            roles = ("system", "user", "assistant")[not shape.has_system :]
            for place, each in enumerate(roles):
                before, after = pieces[2 * place], pieces[2 * place + 2]
                plain = self._rendered(shape, "").split(MARK)
                self._trimmed[each] = (
                    before == plain[2 * place],
                    after == plain[2 * place + 2],
                )
        return self._trimmed.get(role, (False, False))

    def _cut(self, shape: Shape) -> Markup:
        pieces = self._rendered(shape, "").split(MARK)
        # Every sentinel is a mark, its number and a mark.
        markup, numbers = pieces[::2], pieces[1::2]
        given = shape.has_system + sum(shape.texts)
        if numbers != [str(n) for n in range(given + 2 * shape.turns)]:
            raise FamilyError(
                f"the chat template writes the texts of {shape} in another order, or not each of "
                "them once, so its markup cannot be told from them; pass chat="
            )
        start = tuple(markup[: given + 1])
        rest = markup[given + 1 :]
        return Markup(start, tuple(rest[::2]), tuple(rest[1::2]))

    def _rendered(self, shape: Shape, blank: str) -> str:
        numbers = iter(range(10**9))

        def said() -> str:
            return f"{blank}{MARK}{next(numbers)}{MARK}{blank}"

        messages = []
        if shape.has_system:
            messages.append(_message("system", [_text(said())], self._has_parts))
        for turn in range(shape.turns):
            parts = []
            for kind, has_text in zip(shape.kinds, shape.texts, strict=True) if not turn else ():
                parts += [_text(said())] if has_text else []
                parts.append({"type": kind})
            messages.append(_message("user", [*parts, _text(said())], self._has_parts))
            messages.append(_message("assistant", [_text(said())], self._has_parts))
        try:
            return self._render(messages)
        except Exception as error:
            raise FamilyError(
                f"the chat template rejects a conversation of {shape}: {cut(str(error))}"
            ) from error


class FormatMarkup:
    """The markup that a `ChatFormat` writes, as that of a template.

    Args:
        chat: the format.
        placeholders: what stands for a medium of each kind in the text of a processor.
        end: the end-of-sequence token, where the format names no end.
    """

    def __init__(self, chat: ChatFormat, placeholders: Mapping[str, str], end: str) -> None:
        self.chat = chat
        self.placeholders = placeholders
        self.end: str = end if chat.end is None else chat.end

    def cut(self, shape: Shape) -> Markup:
        """The markup of a conversation.

        Raises:
            FamilyError: a kind of media that has no placeholder.
        """
        chat, pieces, current = self.chat, [], ""
        if shape.has_system:
            pieces.append(chat.system)
            current = chat.system_end
        current += "" if chat.media_first else chat.user
        for kind, has_text in zip(shape.kinds, shape.texts, strict=True):
            if kind not in self.placeholders:
                raise FamilyError(f"the processor has no token that stands for a medium: {kind}")
            if has_text:
                pieces.append(current)
                current = ""
            current += self.placeholders[kind]
        current += chat.user if chat.media_first else ""
        after = [self.end + chat.separator + chat.user] * (shape.turns - 1) + [self.end]
        return Markup((*pieces, current), (chat.assistant,) * shape.turns, tuple(after))

    def trim(self, role: str, text: str) -> str:  # noqa: ARG002
        """The text itself."""
        return text


def template_of(processor: Any, has_parts: bool) -> Template | None:
    """The chat template of a processor or of its tokenizer, ``None`` if there is none."""
    tokenizer = getattr(processor, "tokenizer", None)
    for owner in (processor, tokenizer):
        if getattr(owner, "chat_template", None):
            return Template(_Renderer(owner), has_parts and owner is processor)
    return None


def render_whole(processor: Any, conversations: Conversations, turns: Sequence[Turn]) -> str:
    """One conversation of an example, as its processor's chat template writes it."""
    has_parts = bool(getattr(processor, "chat_template", None)) and hasattr(processor, "tokenizer")
    parts = []
    for medium, text in zip(conversations.media, conversations.texts, strict=True):
        parts += [_text(text)] if text else []
        parts.append({"type": medium.kind})
    said = [("system", [_text(conversations.system)])] if conversations.system else []
    for place, (question, answer, _) in enumerate(turns):
        said.append(("user", [*(parts if not place else []), _text(question)]))
        said.append(("assistant", [_text(answer)]))
    messages = [_message(role, each, has_parts) for role, each in said]
    owner = processor if getattr(processor, "chat_template", None) else processor.tokenizer
    return str(owner.apply_chat_template(messages, tokenize=False))


class _Renderer:
    """Renders with a processor; a class, so that a family can be pickled."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __call__(self, messages: Sequence[Mapping[str, Any]]) -> str:
        return str(self._owner.apply_chat_template(messages, tokenize=False))


def _message(role: str, parts: list[dict[str, str]], has_parts: bool) -> dict[str, Any]:
    content = parts if has_parts else "".join(part["text"] for part in parts)
    return {"role": role, "content": content}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
