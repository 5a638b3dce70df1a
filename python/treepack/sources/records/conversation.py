"""One conversation record, in any of its written forms, read and checked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from treepack.errors import DataError
from treepack.sources.records.base import KINDS, Medium, Record, Turn
from treepack.tree import example_name

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
PLACEHOLDER = re.compile(r"<(image|video)>")


def parse_record(raw: Any, name: str, folder: Path) -> Record:
    """Read one record in either of its forms.

    Args:
        raw: the record, or its JSON text as bytes.
        name: what errors call it, such as ``train.jsonl:17``.
        folder: where relative paths start.

    Raises:
        DataError: a record that makes no sense; it says what was seen and what to change.
    """
    record = parse_json(raw, name) if isinstance(raw, bytes) else raw
    if not isinstance(record, Mapping):
        raise DataError(f"{name}: a record must be an object with named fields, got {record!r:.80}")
    if record.get("id") is not None:
        name = f"{name} ({example_name(record['id'])})"
    supply = _Supply(record, folder, name)
    turns = [_turn(item, supply, name) for item in _turn_list(record, name)]
    system = _text(turns.pop(0).parts) if turns and turns[0].speaker == "system" else ""
    _check_turns(turns, name)
    supply.check_empty()
    *texts, first = _segments(turns[0].parts)
    questions = [first, *(_text(turn.parts) for turn in turns[2::2])]
    answers = [_text(turn.parts) for turn in turns[1::2]]
    return Record(
        supply.key,
        tuple(supply.taken),
        tuple(texts),
        tuple(map(Turn, questions, answers)),
        system,
    )


class _Spoken(NamedTuple):
    speaker: str
    parts: list[str | Medium]


class _Supply:
    """The media of a record, handed out one for each placeholder."""

    def __init__(self, record: Mapping[str, Any], folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.taken: list[Medium] = []
        self.paths: list[str] = []
        self.id = record.get("id")
        self.given = {
            kind: _listed(record.get(kind)) + _listed(record.get(f"{kind}s")) for kind in KINDS
        }
        self.left = {kind: iter(values) for kind, values in self.given.items()}

    @property
    def key(self) -> str | None:
        """The paths, if all media are files, else the record's id."""
        if self.paths and len(self.paths) == len(self.taken):
            return " + ".join(self.paths)
        return None if self.id is None else str(self.id)

    def take(self, kind: str, value: Any = None) -> Medium:
        """The next medium of a kind, or the one that the placeholder itself names."""
        if value is None:
            value = next(self.left[kind], None)
        if value is None:
            raise DataError(
                f"{self.name}: more <{kind}> than the record has {kind}s "
                f"({len(self.given[kind])}); remove the placeholder, or add the {kind} to the "
                f"field {kind!r}"
            )
        if isinstance(value, (str, os.PathLike)):
            path = os.fspath(value).removeprefix("file://")
            self.paths.append(path)
            value = str(self.folder / path)
        elif not hasattr(value, "__array_interface__"):
            raise DataError(
                f"{self.name}: {kind} must be a path, a PIL image or a uint8 array, "
                f"got {type(value).__name__}"
            )
        self.taken.append(Medium(kind, value))
        return self.taken[-1]

    def check_empty(self) -> None:
        """Reject media that no placeholder stands for."""
        for kind, values in self.given.items():
            unused = sum(1 for _ in self.left[kind])
            if unused:
                raise DataError(
                    f"{self.name}: {len(values)} {kind}s but {len(values) - unused} <{kind}> in "
                    f"its first question; write one <{kind}> for each"
                )


def _listed(value: Any) -> list[Any]:
    if value is None or (isinstance(value, str) and not value):
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _turn_list(record: Mapping[str, Any], name: str) -> list[Any]:
    for field in ("conversations", "messages"):
        turns = record.get(field)
        if turns is not None:
            if not isinstance(turns, (list, tuple)):
                raise DataError(f"{name}: {field!r} must be a list of turns, got {turns!r:.80}")
            return list(turns)
    raise DataError(
        f"{name}: no 'conversations' (or 'messages') among its fields {sorted(map(str, record))}"
    )


def _turn(item: Any, supply: _Supply, name: str) -> _Spoken:
    if not isinstance(item, Mapping):
        raise DataError(f"{name}: a turn must be an object with named fields, got {item!r:.80}")
    who = item.get("from", item.get("role"))
    said = item.get("value", item.get("content"))
    if who is None or said is None:
        missing = "'from' (or 'role')" if who is None else "'value' (or 'content')"
        raise DataError(f"{name}: a turn has no {missing}, only {sorted(map(str, item))}")
    speaker = SPEAKERS.get(who) if isinstance(who, str) else None
    if speaker is None:
        raise DataError(f"{name}: speaker {who!r} is not known; use one of {sorted(SPEAKERS)}")
    if isinstance(said, str):
        return _Spoken(speaker, _parse_text(said, supply) if speaker == "user" else [said])
    if isinstance(said, (list, tuple)):
        return _Spoken(speaker, [_parse_part(part, supply, name) for part in said])
    raise DataError(f"{name}: a turn must say a text or a list of parts, got {said!r:.80}")


def _parse_text(text: str, supply: _Supply) -> list[str | Medium]:
    pieces = PLACEHOLDER.split(text)
    return [supply.take(piece) if i % 2 else piece for i, piece in enumerate(pieces)]


def _parse_part(part: Any, supply: _Supply, name: str) -> str | Medium:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in KINDS:
        given = (part.get(field) for field in (kind, "path", "url"))
        return supply.take(kind, next((value for value in given if value is not None), None))
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise DataError(f"{name}: a part must be a text, an image or a video, got {part!r:.80}")


def _check_turns(turns: Sequence[_Spoken], name: str) -> None:
    for place, turn in enumerate(turns):
        if turn.speaker != ("user", "assistant")[place % 2]:
            raise DataError(
                f"{name}: turn {place + 1} is by the {turn.speaker}; user and assistant must "
                "alternate, and the user begins"
            )
        if place and any(isinstance(part, Medium) for part in turn.parts):
            raise DataError(
                f"{name}: an image or video in turn {place + 1}; a branch cannot hold one, so move "
                "it to the first question"
            )
    if not turns or len(turns) % 2:
        raise DataError(
            f"{name}: {len(turns)} turns; each question needs its answer, so add the last answer "
            "or remove the question"
        )


def _segments(parts: Sequence[str | Medium]) -> list[str]:
    """The texts before, between and after the media; blanks around media are left out."""
    texts = [""]
    for part in parts:
        if isinstance(part, Medium):
            texts.append("")
        else:
            texts[-1] += part
    return [text.strip() for text in texts] if len(texts) > 1 else texts


def _text(parts: Sequence[str | Medium]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def parse_json(text: bytes, name: str) -> Any:
    """The value of a JSON text.

    Raises:
        DataError: it is not JSON; the message begins with ``name``.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{name}: is not JSON: {error}; correct it, or leave it out with on_error='skip'"
        ) from error
