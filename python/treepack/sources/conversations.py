"""Conversation records, one annotation each, grouped into examples: one for each image."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from treepack.errors import DataError, DatasetError
from treepack.sources.records.base import KINDS, Medium, Record, Turn
from treepack.sources.records.conversation import parse_json, parse_record
from treepack.tree import example_name

__all__ = [
    "Conversations",
    "GroupedConversations",
    "Medium",
    "Turn",
    "group_conversations",
    "read_record",
]


@dataclass(frozen=True, slots=True, eq=False)
class Conversations:
    """One example: its media, and every conversation that is held about them.

    Immutable. A model family turns it into a `MessageTree`: media and what precedes them become the
    root, each conversation a branch.

    Args:
        branches: the conversations, each one branch: its turns ``(question, answer)``, in order, or
            ``(question, answer, weight)``.
        media: images and videos ``(kind, value)`` or ``(kind, value, options)``, in the order in
            which the model sees them. The kind is ``"image"`` or ``"video"``; the value a path, a
            PIL image, or a uint8 array ``[H, W, C]`` (of a video ``[T, H, W, 3]``).
        texts: what stands before each of the media in every conversation; all empty by default.
        system: instruction that precedes everything.
        key: name of the example in errors, packs and statistics.

    Raises:
        DataError: no branches, a branch without turns, a turn that is not two texts, a medium that
            is not ``(kind, value)``, or a number of texts other than that of the media.

    Source:
        Branches as one image's annotations: Molmo2, arXiv 2601.10611.

    Example:
        >>> example = Conversations([[("What is it?", "A cat.")]], [("image", "cat.png")])
        >>> example.branches[0][0].answer, example.media[0].kind
        ('A cat.', 'image')
    """

    branches: Sequence[Sequence[Turn]]
    media: Sequence[Medium] = ()
    texts: Sequence[str] = ()
    system: str = ""
    key: Any = None

    def __post_init__(self) -> None:
        name = example_name(self.key)
        branches = tuple(_turns(turns, name) for turns in _items("branches", self.branches, name))
        if not branches or not all(branches):
            raise DataError(f"{name}: needs at least one conversation, and each at least one turn")
        media = tuple(_medium(medium, name) for medium in _items("media", self.media, name))
        texts = _items("texts", self.texts, name) or ("",) * len(media)
        if len(texts) != len(media):
            raise DataError(f"{name}: {len(texts)} texts for {len(media)} media; give one for each")
        for field, value in (("branches", branches), ("media", media), ("texts", texts)):
            object.__setattr__(self, field, value)

    @property
    def rows(self) -> Sequence[Sequence[Turn]]:
        """The same as ``branches``."""
        return self.branches

    def __repr__(self) -> str:
        kinds = [medium.kind for medium in self.media]
        return f"Conversations(key={self.key!r}, media={kinds}, branches={len(self.branches)})"


def _items(field: str, value: Any, name: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise DataError(f"{name}: {field} is a {type(value).__name__}; it must be a list")
    return tuple(value)


def _turns(branch: Any, name: str) -> tuple[Turn, ...]:
    is_listed = isinstance(branch, Iterable) and not isinstance(branch, str)
    turns = tuple(branch) if is_listed else (branch,)
    for turn in turns:
        if not _is_turn(turn):
            raise DataError(
                f"{name}: a turn must be a question and an answer, two texts, got {turn!r:.80}; "
                "branches is a list of conversations, each a list of turns: [[(question, answer)]]"
            )
    return tuple(Turn(*turn) for turn in turns)


def _medium(medium: Any, name: str) -> Medium:
    if not _is_medium(medium):
        raise DataError(
            f"{name}: a medium must be (kind, value), got {medium!r:.80}; media is a list of "
            '("image", value) and ("video", value)'
        )
    return Medium(*medium)


def _is_turn(value: Any) -> bool:
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        return False
    question, answer, *weight = value
    weighs = all(isinstance(w, Real) and 0 <= float(w) < math.inf for w in weight)
    return isinstance(question, str) and isinstance(answer, str) and weighs


def _is_medium(value: Any) -> bool:
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        return False
    kind, _, *options = value
    has_names = all(option is None or isinstance(option, Mapping) for option in options)
    return isinstance(kind, str) and kind in KINDS and has_names


def group_conversations(
    records: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    images: str | os.PathLike[str] | None = None,
    *,
    on_error: str = "raise",
) -> GroupedConversations:
    r"""Group conversation records into examples: those that share their media become one tree.

    A record is ``{"id", "image": path, "conversations": [{"from": "human", "value": "<image>\nQ"},
    {"from": "gpt", "value": "A"}, ...]}``; it becomes one branch, however many turns it has.
    ``image`` and ``video`` take one medium or a list (a path, a PIL image, a uint8 array), and the
    first question has one ``<image>`` or ``<video>`` for each. ``"messages"`` with ``"role"`` and
    ``"content"``, a text or a list of parts, are read as well. A record without media is an example
    of its own, and records whose ``system`` texts differ do not share a tree. Text before an image
    is moved behind it, unless all records of the tree begin with it.

    Args:
        records: a JSONL file or JSON list, or the records themselves, which stay in memory.
        images: folder that relative paths start from; by default that of the file, or the current
            one.
        on_error: what becomes of a record that makes no sense: ``"raise"``, or ``"skip"``, and
            count it in ``skipped``.

    Returns:
        A source for `PackedDataset`: ``len(source)``, and ``source[i]``, a `Conversations`.
        Examples stand in the order in which their first record appears. All records are read once,
        here; of a JSONL file only offsets are kept, so the source is cheap to copy into workers.

    Raises:
        DataError: a file that cannot be read, or a record that makes no sense, named by file and
            line.
        DatasetError: ``on_error`` is neither ``"raise"`` nor ``"skip"``.

    Source:
        LLaVA's record format: https://github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md.

    Example:
        >>> import treepack as tp
        >>> def record(question, answer):
        ...     turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        ...     return {"image": "cat.png", "conversations": turns}
        >>> source = tp.group_conversations(
        ...     [record("<image>\nWhat is it?", "A cat."), record("<image>\nIts colour?", "Black.")]
        ... )
        >>> len(source), source[0].key, [turns[0].question for turns in source[0].branches]
        (1, 'cat.png', ['What is it?', 'Its colour?'])
    """
    if on_error not in ("raise", "skip"):
        raise DatasetError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if not isinstance(records, (str, os.PathLike)):
        return GroupedConversations(_Listed(list(records)), Path(images or ""), on_error)
    path = Path(records)
    folder = path.parent if images is None else Path(images)
    return GroupedConversations(_open(path), folder, on_error)


class GroupedConversations(Sequence[Conversations]):
    """Conversation records by example; what `group_conversations` returns.

    Attributes:
        skipped: records that made no sense and were left out.
    """

    def __init__(self, store: _Lines | _Listed, folder: Path, on_error: str) -> None:
        self.store = store
        self.folder = folder
        self.skipped = 0
        groups: dict[Any, int] = {}
        owners = []
        for index, raw in enumerate(store):
            try:
                record = self._parse(index, raw)
            except DataError:
                if on_error == "raise":
                    raise
                self.skipped += 1
                owners.append(-1)
                continue
            group = record.group if record.media else index
            owners.append(groups.setdefault(group, len(groups)))
        owner = np.array(owners, np.int64)
        # Indices of the records, example after example, and where each example ends among them.
        self._members = np.argsort(owner, kind="stable")[self.skipped :]
        self._ends = np.cumsum(np.bincount(owner[owner >= 0], minlength=len(groups)))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        if isinstance(index, range):
            return [self[i] for i in index]
        start = self._ends[index - 1] if index else 0
        members = self._members[start : self._ends[index]].tolist()
        records = [self._parse(i, self.store[i]) for i in members]
        return merge_records(records, self.store.name(members[0]))

    def __repr__(self) -> str:
        counts = {"examples": len(self), "records": len(self._members), "skipped": self.skipped}
        parts = [f"{name}={count}" for name, count in counts.items() if count or name != "skipped"]
        path = [repr(str(self.store.path))] if self.store.path else []
        return f"GroupedConversations({', '.join(path + parts)})"

    def _parse(self, index: int, raw: Any) -> Record:
        return parse_record(raw, self.store.name(index), self.folder)


class _Lines:
    """The lines of a JSONL file that are not blank, as bytes, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        places = []
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    places.append((number, offset))
                offset += len(line)
        self.numbers, self.offsets = np.array(places, np.int64).reshape(-1, 2).T.copy()

    def name(self, index: int) -> str:
        return f"{self.path}:{self.numbers[index]}"

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from (line for line in file if line.strip())

    def __getitem__(self, index: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return file.readline()


class _Listed:
    """Records in memory."""

    def __init__(self, records: list[Any], path: str = "") -> None:
        self.records = records
        self.path = path

    def name(self, index: int) -> str:
        return f"{self.path}, record {index}" if self.path else f"record {index}"

    def __iter__(self) -> Iterator[Any]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Any:
        return self.records[index]


def _open(path: Path) -> _Lines | _Listed:
    try:
        with path.open("rb") as file:
            is_list = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
        if not is_list:
            return _Lines(path)
        return _Listed(parse_json(path.read_bytes(), str(path)), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_record(raw: Mapping[str, Any], name: str) -> Conversations:
    """A conversation record as an example of its own.

    Args:
        raw: as `group_conversations` takes it; relative paths start at the current folder.
        name: what errors call it, and the example if the record does not say.

    Raises:
        DataError: a record that makes no sense.
    """
    return merge_records([parse_record(raw, name, Path())], name)


def merge_records(records: Sequence[Record], name: str) -> Conversations:
    """One example of the records that share their media.

    Args:
        records: those of one tree, in order; at least one.
        name: what the example is called if its records do not say.
    """
    first = records[0]
    shared = all(record.texts == first.texts for record in records)
    return Conversations(
        branches=[r.turns if shared else _text_behind_media(r) for r in records],
        media=first.media,
        texts=first.texts if shared else (),
        system=first.system,
        key=first.key or name,
    )


def _text_behind_media(record: Record) -> tuple[Turn, ...]:
    first = record.turns[0]
    text = "\n".join(part for part in (*record.texts, first.question) if part)
    return (first._replace(question=text), *record.turns[1:])
