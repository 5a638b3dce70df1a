"""From a record as it stands in the data to `Record`: its format, its media, its conversations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, get_args

import numpy as np

from treepack.errors import DataError, DatasetError, TreepackError
from treepack.options import FormatName, TextBeforeMedia
from treepack.sources.records import unsupported
from treepack.sources.records.base import (
    Record,
    Said,
    fields_once,
    is_given,
    plain_lists,
    shown,
)
from treepack.sources.records.dialogue import Dialogue, check_text, read_dialogue, weight_of
from treepack.sources.records.formats import check_format, find
from treepack.sources.records.identity import identity
from treepack.sources.records.supply import Shown, Supply

SYSTEM = ("system", "system_prompt", "system_message", "system_instruction")
WEIGHTS = ("weight", "loss_weight", "sample_weight")

RecordFormat = FormatName | Callable[[Mapping[str, Any]], Mapping[str, Any]] | None


@dataclass(frozen=True)
class RecordReader:
    """Reads records; it can be sent to workers.

    Args:
        folder: where relative paths start; empty for the current folder.
        format: name of a format of records; a function from a record to one in a format; or
            ``None``, where the fields of a record say which it is.
        text_before_media: ``"move"`` it behind them; ``"keep"`` it; ``None`` moves it if there is
            one medium and keeps it if there are several.
        by_question: only conversations that begin with the same question share a tree.

    Raises:
        DatasetError: a format or a treatment of text that does not exist.
    """

    folder: str = ""
    format: RecordFormat = None
    text_before_media: TextBeforeMedia | None = None
    by_question: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.format, str):
            check_format(self.format)
        elif self.format is not None and not callable(self.format):
            raise DatasetError(f"format must be a name or a function, got {shown(self.format)}")
        if self.text_before_media not in (None, *get_args(TextBeforeMedia)):
            raise DatasetError(
                f"text_before_media must be 'move' or 'keep', got {shown(self.text_before_media)}"
            )

    def read(self, raw: Any, name: str) -> list[Record]:
        """Read one record.

        Args:
            raw: the record, its JSON text as bytes, or the error of its store.
            name: what errors call it, such as ``train.jsonl:17``.

        Returns:
            One, in nearly all cases; several, if its conversations cannot share a tree because
            they differ in the system text, in their media, or in the texts before them.

        Raises:
            DataError: a record that makes no sense; it says what was seen and what to change.
        """
        if isinstance(raw, DataError):
            raise raw
        is_json = isinstance(raw, bytes)
        record = parse_json(raw, name) if is_json else raw
        wanted = self.format
        if callable(wanted):
            record, wanted = _converted(wanted, record, name), None
        if type(record) is not dict and not isinstance(record, Mapping):
            raise DataError(
                f"{name}: a record must be an object with named fields, got {shown(record)}"
            )
        if not is_json and any(isinstance(value, np.ndarray) for value in record.values()):
            record = plain_lists(dict(record))
        if is_given(record.get("id")):
            name = f"{name} (example {shown(record['id'])})"
        is_special = not _SPECIAL.isdisjoint(record)
        if is_special:
            unsupported.reject(record, unsupported.RECORD, "the record", name)
        module = find(record, name, wanted)
        if "history" in record and not getattr(module, "HAS_HISTORY", False):
            unsupported.reject(record, unsupported.HISTORY, "the record", name)
        found = module.conversations(record, name)
        supply = Supply(record, self.folder, name)
        parts = [self._part(said, record if is_special else {}, supply, name) for said in found]
        if is_given(record.get("id")):
            parts = [p._replace(key=str(record["id"])) if p.key is None else p for p in parts]
        return parts if len(parts) == 1 else _joined(parts, name, self.by_question)

    def _part(self, said: Said, record: Mapping[str, Any], supply: Supply, name: str) -> Record:
        media = Shown(supply)
        dialogue = read_dialogue(said, media, name)
        if record:
            dialogue = _with_record_fields(dialogue, record, media, name)
        dialogue = self._place_texts(dialogue, len(media.taken))
        return Record(
            media.key,
            tuple([held.medium for held in media.taken]),
            dialogue.texts,
            (dialogue.turns,),
            (said.role,),
            dialogue.system,
            (said.channels,),
        )

    def _place_texts(self, dialogue: Dialogue, media: int) -> Dialogue:
        moves = self.text_before_media == "move" or (self.text_before_media is None and media == 1)
        if not moves or not any(dialogue.texts):
            return dialogue
        first, *later = dialogue.turns
        text = "\n".join([part for part in (*dialogue.texts, first.question) if part])
        turns = (first._replace(question=text), *later)
        return dialogue._replace(texts=("",) * media, turns=turns)


_SPECIAL = frozenset((*unsupported.RECORD, *SYSTEM, *WEIGHTS))


def group_of(record: Record, name: str, by_question: bool = False) -> bytes:
    """What records of one tree have in common, in 16 bytes.

    Among a billion records two different ones have the same with a probability of 1e-21.

    Args:
        record: to be grouped.
        name: the record, for errors.
        by_question: whether the first question is among it; all branches then begin with it.

    Raises:
        DataError: an image in memory whose pixels cannot be decoded.
    """
    try:
        media = [
            (m.kind, identity(m.value), sorted(m.options.items()) if m.options else None)
            for m in record.media
        ]
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    question = (record.branches[0][0].question,) if by_question else ()
    channels = sorted(record.channels[0])
    text = repr((record.system, media, record.texts, *question, *channels))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _joined(parts: list[Record], name: str, by_question: bool) -> list[Record]:
    """The parts of a record, those that share a tree as one."""
    groups: dict[bytes, list[Record]] = {}
    for part in parts:
        groups.setdefault(group_of(part, name, by_question), []).append(part)
    return [join_records(group) for group in groups.values()]


def join_records(records: list[Record]) -> Record:
    """One record with the branches of all; they are of one group."""
    return records[0]._replace(
        branches=tuple(branch for record in records for branch in record.branches),
        roles=tuple(role for record in records for role in record.roles),
        channels=tuple(numbers for record in records for numbers in record.channels),
    )


def _converted(convert: Callable[[Any], Any], record: Any, name: str) -> Any:
    try:
        return convert(record)
    except TreepackError:
        raise
    except Exception as error:
        raise DataError(
            f"{name}: format() failed: {type(error).__name__}: {str(error)[:200]}"
        ) from error


def _with_record_fields(
    dialogue: Dialogue, record: Mapping[str, Any], media: Shown, name: str
) -> Dialogue:
    """The system text and the weight that a record says beside its turns."""
    system = dialogue.system
    for field in SYSTEM:
        value = record.get(field)
        if not is_given(value):
            continue
        if not isinstance(value, str):
            raise DataError(f"{name}: {field!r} must be a text, got {shown(value)}")
        if system and system != value:
            raise DataError(
                f"{name}: {field!r} is {shown(value)}, another system text is {shown(system)}; "
                "leave one"
            )
        check_text(value, media, name)
        system = value
    weight = 1.0
    for field in WEIGHTS:
        if record.get(field) is not None:
            weight *= weight_of(record[field], field, name)
    turns = dialogue.turns
    if weight != 1.0:
        turns = tuple(turn._replace(weight=turn.weight * weight) for turn in turns)
    return dialogue._replace(system=system, turns=turns)


_decode = json.JSONDecoder(object_pairs_hook=fields_once).decode


def parse_json(text: bytes, name: str) -> Any:
    """The value of a JSON text; what is none is a `DataError` that names it."""
    try:
        return _decode(text.decode().removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{name}: is not JSON: {error}; correct it, or leave it out with on_error='skip'"
        ) from error
