"""Conversation rows, one annotation each, grouped into examples: one for each image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from treepack.conversation_rows import Medium, Row, Turn, parse_json, parse_row
from treepack.errors import DataError, DatasetError
from treepack.tree import example_name

__all__ = ["Conversations", "GroupedConversations", "Medium", "Turn", "group_conversations"]


@dataclass(frozen=True, slots=True, eq=False)
class Conversations:
    """One example: its media, and every conversation that is held about them.

    Args:
        rows: the conversations, each a branch: its turns ``(question, answer)``, in order.
        media: images and videos ``(kind, value)``, in the order in which the model sees them.
        texts: what stands before each of the media in every conversation; all empty by default.
        system: instruction that precedes everything.
        key: name of the example.

    Raises:
        DataError: no rows, a row without turns, or not one text for each of the media.

    Example:
        >>> example = Conversations([[("What is it?", "A cat.")]], [("image", "cat.png")])
        >>> example.rows[0][0].answer, example.media[0].kind
        ('A cat.', 'image')
    """

    rows: Sequence[Sequence[Turn]]
    media: Sequence[Medium] = ()
    texts: Sequence[str] = ()
    system: str = ""
    key: Any = None

    def __post_init__(self) -> None:
        name = example_name(self.key)
        if not self.rows or not all(self.rows):
            raise DataError(f"{name}: needs at least one conversation, and each at least one turn")
        if self.texts and len(self.texts) != len(self.media):
            raise DataError(
                f"{name}: {len(self.texts)} texts for {len(self.media)} media; give one for each"
            )
        rows = tuple(tuple(Turn(*turn) for turn in row) for row in self.rows)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "media", tuple(Medium(*medium) for medium in self.media))
        object.__setattr__(self, "texts", tuple(self.texts) or ("",) * len(self.media))

    def __repr__(self) -> str:
        kinds = [medium.kind for medium in self.media]
        return f"Conversations(key={self.key!r}, media={kinds}, rows={len(self.rows)})"


def group_conversations(
    rows: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    images: str | os.PathLike[str] | None = None,
    *,
    on_error: str = "raise",
) -> GroupedConversations:
    r"""Group conversation rows into examples: the rows that share their media become one tree.

    A row is ``{"id", "image": path, "conversations": [{"from": "human", "value": "<image>\nQ"},
    {"from": "gpt", "value": "A"}, ...]}``; it becomes one branch, however many turns it has.
    ``image`` and ``video`` take one medium or a list (a path, a PIL image, a uint8 array), and the
    first question has one ``<image>`` or ``<video>`` for each. ``"messages"`` with ``"role"`` and
    ``"content"``, a text or a list of parts, do as well. Rows without media are examples of their
    own; so are rows whose ``system`` texts differ. Text before an image is moved behind it, unless
    all rows of the tree share it.

    Args:
        rows: a JSONL file or JSON list, or the rows themselves, which stay in memory.
        images: folder that relative paths start from; by default that of the file, or the current
            one.
        on_error: a row that makes no sense: ``"raise"``, or ``"skip"`` and count it in ``skipped``.

    Returns:
        A source for `PackedDataset`: ``len(source)`` and ``source[i]``, a `Conversations`; examples
        stand in the order in which their first row appears. Of a JSONL file only offsets are kept,
        so it is cheap to copy into workers.

    Raises:
        DataError: a row that makes no sense, named by file and line; a file that cannot be read.

    Example:
        >>> import treepack as tp
        >>> def row(question, answer):
        ...     turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        ...     return {"image": "cat.png", "conversations": turns}
        >>> source = tp.group_conversations(
        ...     [row("<image>\nWhat is it?", "A cat."), row("<image>\nIts colour?", "Black.")]
        ... )
        >>> len(source), source[0].key, [turns[0].question for turns in source[0].rows]
        (1, 'cat.png', ['What is it?', 'Its colour?'])
    """
    if on_error not in ("raise", "skip"):
        raise DatasetError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if not isinstance(rows, (str, os.PathLike)):
        return GroupedConversations(_Listed(list(rows)), Path(images or ""), on_error)
    path = Path(rows)
    folder = path.parent if images is None else Path(images)
    return GroupedConversations(_open(path), folder, on_error)


class GroupedConversations(Sequence[Conversations]):
    """Conversation rows by example; what `group_conversations` returns.

    Attributes:
        skipped: rows that made no sense and were left out.
    """

    def __init__(self, store: _Lines | _Listed, folder: Path, on_error: str) -> None:
        self.store = store
        self.folder = folder
        self.skipped = 0
        groups: dict[Any, int] = {}
        owners = []
        for index, raw in enumerate(store):
            try:
                row = self._parse(index, raw)
            except DataError:
                if on_error == "raise":
                    raise
                self.skipped += 1
                owners.append(-1)
                continue
            group = row.group if row.media else index
            owners.append(groups.setdefault(group, len(groups)))
        owner = np.array(owners, np.int64)
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
        rows = [self._parse(i, self.store[i]) for i in members]
        return merge_rows(rows, self.store.name(members[0]))

    def _parse(self, index: int, raw: Any) -> Row:
        return parse_row(raw, self.store.name(index), self.folder)


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
    """Rows in memory."""

    def __init__(self, rows: list[Any], path: str = "") -> None:
        self.rows = rows
        self.prefix = f"{path}, " if path else ""

    def name(self, index: int) -> str:
        return f"{self.prefix}row {index}"

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def _open(path: Path) -> _Lines | _Listed:
    try:
        with path.open("rb") as file:
            is_list = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
        if not is_list:
            return _Lines(path)
        return _Listed(parse_json(path.read_bytes(), str(path)), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def merge_rows(rows: Sequence[Row], name: str) -> Conversations:
    """One example of the rows that share their media.

    Args:
        rows: those of one tree, in order; at least one.
        name: what the example is called if its rows do not say.
    """
    first = rows[0]
    shared = all(row.texts == first.texts for row in rows)
    return Conversations(
        rows=[row.turns if shared else _text_behind_media(row) for row in rows],
        media=first.media,
        texts=first.texts if shared else (),
        system=first.system,
        key=first.key or name,
    )


def _text_behind_media(row: Row) -> tuple[Turn, ...]:
    question, answer = row.turns[0]
    text = "\n".join(part for part in (*row.texts, question) if part)
    return (Turn(text, answer), *row.turns[1:])
