"""The turns of one conversation, as any format says them, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from treepack.errors import DataError
from treepack.options import MediumKind
from treepack.sources.records import unsupported
from treepack.sources.records.base import KINDS, QUESTIONS, Medium, Said, Turn, number_of, shown
from treepack.sources.records.supply import Shown

SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "model", "bot"), "assistant"),
    "system": "system",
}
PLACEHOLDER = re.compile(r"<(image|video)>")
SYSTEM_MEDIA = "an image or video in the system text; move it to the first question"
ORDER = ("user", "assistant")
WEIGHTS = ("weight", "loss_weight", "loss_scale", "loss", "train", "training", "trainable")
"""Fields of a turn that say whether, or how much, its text is trained on."""


class Dialogue(NamedTuple):
    """A conversation that has been read.

    Attributes:
        system: instruction that precedes everything; empty if there is none.
        texts: what stands before each of the media in the first question.
        turns: the conversation; the first question is what stands behind the media.
    """

    system: str
    texts: tuple[str, ...]
    turns: tuple[Turn, ...]


class _Spoken(NamedTuple):
    speaker: str
    parts: list[str | Medium]
    weight: float


def read_dialogue(said: Said, media: Shown, name: str) -> Dialogue:
    """Read a conversation and take its media.

    Args:
        said: as its format found it.
        media: those of its record; all of them are taken.
        name: the record, for errors.

    Raises:
        DataError: turns that make no sense; it says what was seen and what to change.
    """
    turns = [_turn(item, media, name) for item in said.turns]
    system = _text(turns.pop(0).parts) if turns and turns[0].speaker == "system" else ""
    _check_turns(turns, name)
    if not said.is_tagged and not media.taken:
        turns[0].parts[:0] = media.take_all()
    media.check_empty()
    *texts, first = _segments(turns[0].parts)
    questions = [first, *(_text(turn.parts) for turn in turns[2::2])]
    pairs = [
        Turn(question, _text(answer.parts), answer.weight * said.weight)
        for question, answer in zip(questions, turns[1::2], strict=True)
    ]
    for place, (_, text, weight) in enumerate(pairs, 1):
        if weight and not text.strip():
            raise DataError(
                f"{name}: answer {place} is empty, and its end of turn would be trained; write the "
                "answer, or 'loss': false beside it"
            )
    return Dialogue(system, tuple(texts), tuple(pairs))


def weight_of(value: Any, field: str, name: str) -> float:
    """A loss weight that the data says: a number, or whether to train.

    Raises:
        DataError: neither.
    """
    number = number_of(value)
    if number is not None:
        return number
    raise DataError(
        f"{name}: {field!r} must be true, false or a number of 0 or more, got {shown(value)}"
    )


def _turn(item: Any, media: Shown, name: str) -> _Spoken:
    if type(item) is not dict and not isinstance(item, Mapping):
        raise DataError(f"{name}: a turn must be an object with named fields, got {shown(item)}")
    who = _either(item, "from", "role", name)
    speaker = _speaker(who, name)
    is_plain = len(item) == 2  # who and what, so nothing else to look for
    if not is_plain:
        unsupported.reject(item, unsupported.TURN, f"a turn by {who}", name)
    said = _either(item, "value", "content", name)
    weight = 1.0 if is_plain else _weight(item, speaker, name)
    if isinstance(said, str):
        check_text(said, media, name)
        if speaker == "system" and media.supply.count and PLACEHOLDER.search(said):
            raise DataError(f"{name}: {SYSTEM_MEDIA}")
        return _Spoken(speaker, _parse_text(said, media) if speaker == "user" else [said], weight)
    if isinstance(said, (list, tuple)):
        parts = [_parse_part(part, media, name) for part in said]
        if speaker == "system" and _has_media(parts):
            raise DataError(f"{name}: {SYSTEM_MEDIA}")
        return _Spoken(speaker, parts, weight)
    raise DataError(f"{name}: a turn must say a text or a list of parts, got {shown(said)}")


def _either(item: Mapping[str, Any], one: str, other: str, name: str) -> Any:
    """What stands under one of two names; a null is an absence."""
    value, same = item.get(one), item.get(other)
    if same is None and value is not None:
        return value
    if value is None:
        value = same
    elif same is not None and not _agree(value, same):
        raise DataError(
            f"{name}: a turn has {one!r}: {shown(value)} and {other!r}: {shown(same)}; leave one"
        )
    if value is None:
        raise DataError(
            f"{name}: a turn has no {one!r} (or {other!r}), only {shown(sorted(map(str, item)))}"
        )
    return value


def _agree(value: Any, same: Any) -> bool:
    if not isinstance(value, str) or not isinstance(same, str):
        return False
    return value == same or (value in SPEAKERS and SPEAKERS[value] == SPEAKERS.get(same))


def _speaker(who: Any, name: str) -> str:
    if isinstance(who, str):
        speaker = SPEAKERS.get(who) or SPEAKERS.get(who.lower())
        if speaker is not None:
            return speaker
        if who in unsupported.SPEAKERS:
            raise DataError(f"{name}: a turn by {who!r}; {unsupported.SPEAKERS[who]}")
    raise DataError(f"{name}: speaker {shown(who)} is not known; use one of {sorted(SPEAKERS)}")


def _weight(item: Mapping[str, Any], speaker: str, name: str) -> float:
    weight = 1.0
    for field in WEIGHTS:
        value = item.get(field)
        if value is None:
            continue
        weight *= weight_of(value, field, name)
        if speaker != "assistant" and weight:
            raise DataError(
                f"{name}: {field!r}: {shown(value)} in a turn by the {speaker}; only answers are "
                "trained on, so remove it"
            )
    return weight


def _parse_text(text: str, media: Shown) -> list[str | Medium]:
    if "<image>" not in text and "<video>" not in text:
        return [text]
    pieces = PLACEHOLDER.split(text)
    return [
        media.take(cast("MediumKind", piece)) if i % 2 else piece for i, piece in enumerate(pieces)
    ]


def _parse_part(part: Any, media: Shown, name: str) -> str | Medium:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        kind = ""
    if kind.removesuffix("_url") in KINDS:
        return media.take_part(cast("MediumKind", kind.removesuffix("_url")), part)
    if kind in unsupported.PARTS:
        raise DataError(f"{name}: a part of type {kind!r}; {unsupported.PARTS[kind]}")
    if kind == "text" and isinstance(part.get("text"), str):
        unsupported.reject(part, unsupported.MEDIUM, "a part", name)
        check_text(part["text"], media, name)
        return str(part["text"])
    raise DataError(f"{name}: a part must be a text, an image or a video, got {shown(part)}")


def _check_turns(turns: Sequence[_Spoken], name: str) -> None:
    for place, turn in enumerate(turns):
        speaker = turn.speaker
        if speaker != ORDER[place % 2]:
            raise DataError(
                f"{name}: turn {place + 1} is by the {speaker}; user and assistant must take "
                "turns, and the user begins"
                + ("" if place else " (with an empty text, if nothing was asked)")
            )
        if place and _has_media(turn.parts):
            raise DataError(
                f"{name}: an image or video in turn {place + 1}; a branch cannot hold one, so move "
                "it to the first question"
            )
    if not turns or len(turns) % 2:
        raise DataError(
            f"{name}: {len(turns)} turns; each question needs its answer, so add the last answer "
            "or remove the question"
        )


def check_text(text: str, media: Shown, name: str) -> None:
    """Reject a text that no tokenizer takes, or that speaks of boxes by tags.

    Raises:
        DataError: it holds a lone surrogate or a tag.
    """
    if media.supply.has_boxes:
        unsupported.reject_tags(text, name)
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name}: half a character (a lone surrogate) at place {error.start} of "
            f"{shown(text[max(error.start - 20, 0) : error.start + 20])}; correct the text"
        ) from error


def _segments(parts: Sequence[str | Medium]) -> list[str]:
    """The texts before, between and after the media; around media, blanks carry no meaning."""
    texts = [""]
    for part in parts:
        if isinstance(part, Medium):
            texts.append("")
        else:
            texts[-1] += part
    return [text.strip() for text in texts] if len(texts) > 1 else texts


def _has_media(parts: Sequence[str | Medium]) -> bool:
    return Medium in map(type, parts)


def _text(parts: Sequence[str | Medium]) -> str:
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return "".join([part for part in parts if isinstance(part, str)])


def as_turns(value: Any, field: str, name: str) -> list[Any]:
    """What a prompt or an answer says as turns: a text, one message or a list of them.

    Raises:
        DataError: none of these.
    """
    if isinstance(value, str):
        speaker = "user" if field in QUESTIONS else "assistant"
        return [{"role": speaker, "content": value}]
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, (list, tuple)):
        return list(value)
    raise DataError(f"{name}: {field!r} must be a text or messages, got {shown(value)}")


def is_answered(turns: Any) -> bool:
    """Whether the last of some turns is an answer, so that they are no prompt."""
    if not isinstance(turns, (list, tuple)) or not turns or not isinstance(turns[-1], Mapping):
        return False
    who = turns[-1].get("from"), turns[-1].get("role")
    return any(isinstance(w, str) and SPEAKERS.get(w.lower()) == "assistant" for w in who)
