"""Conversation records, one annotation each, grouped into examples: one for each image."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, get_args, overload

from treepack.errors import DataError, DatasetError
from treepack.options import MediumKind, OnError, TextBeforeMedia
from treepack.sources.grouping import find_groups
from treepack.sources.records.base import KINDS, Medium, Record, Turn, shown
from treepack.sources.records.reader import RecordFormat, RecordReader, join_records
from treepack.sources.stores import Store, folder_of, open_store
from treepack.tree import example_name

__all__ = [
    "Conversations",
    "GroupedConversations",
    "Medium",
    "Turn",
    "group_conversations",
    "read_record",
]


GivenTurn: TypeAlias = tuple[str, str] | tuple[str, str, float]
GivenMedium: TypeAlias = tuple[MediumKind, Any] | tuple[MediumKind, Any, Mapping[str, float] | None]


@dataclass(frozen=True, slots=True, eq=False)
class Conversations:
    """One example: its media, and every conversation that is held about them.

    Immutable. A model family turns it into a `MessageTree`: media and what precedes them become the
    root, each conversation a branch.

    Args:
        branches: the conversations, each one branch: its turns ``(question, answer)``, in order, or
            ``(question, answer, weight)``.
        media: images and videos ``(kind, value)`` or ``(kind, value, options)``, in the order in
            which the model sees them. The kind is ``"image"`` or ``"video"``; values are those of
            ``sources.records.base.Medium``.
        texts: what stands before each of the media in every conversation; all empty by default.
        system: instruction that precedes everything.
        key: name of the example.
        roles: what each branch is to a loss, such as ``"chosen"`` and ``"rejected"`` of a
            preference, or ``None``; one for each branch, by default ``None`` for all. The n-th
            chosen branch goes with the n-th rejected one.
        channels: numbers that a loss of your own reads, by name one for each branch, such as
            ``{"advantage": [0.5, -1.0]}``; see `treepack.MessageTree`.
        response_ids: what you call each branch; by default its number.

    Raises:
        DataError: no branches, a branch without turns, what is no turn or no medium, or not one
            text for each of the media, and one role, number and id for each branch.

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
    roles: Sequence[str | None] = ()
    channels: Mapping[str, Sequence[float]] = field(default_factory=dict)
    response_ids: Sequence[Any] = ()

    if TYPE_CHECKING:
        # Turns and media may be given as plain tuples, and are read back as what they are.
        def __init__(
            self,
            branches: Iterable[Iterable[GivenTurn]],
            media: Iterable[GivenMedium] = (),
            texts: Iterable[str] = (),
            system: str = "",
            key: Any = None,
            roles: Iterable[str | None] = (),
            channels: Mapping[str, Iterable[float]] = ...,
            response_ids: Iterable[Any] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        name = example_name(self.key)
        branches = tuple(_turns(turns, name) for turns in _items("branches", self.branches, name))
        if not branches or not all(branches):
            raise DataError(f"{name}: needs at least one conversation, and each at least one turn")
        media = tuple(_medium(medium, name) for medium in _items("media", self.media, name))
        texts = _items("texts", self.texts, name) or ("",) * len(media)
        if len(texts) != len(media):
            raise DataError(f"{name}: {len(texts)} texts for {len(media)} media; give one for each")
        n = len(branches)
        roles = _for_each("roles", self.roles, n, name) or (None,) * n
        ids = _for_each("response_ids", self.response_ids, n, name)
        channels = _channels(self.channels, n, name)
        fields = {"branches": branches, "media": media, "texts": texts, "roles": roles}
        for key, value in {**fields, "channels": channels, "response_ids": ids}.items():
            object.__setattr__(self, key, value)

    @property
    def rows(self) -> Sequence[Sequence[Turn]]:
        """The same as ``branches``."""
        return self.branches

    def __repr__(self) -> str:
        kinds = [medium.kind for medium in self.media]
        return f"Conversations(key={self.key!r}, media={kinds}, branches={len(self.branches)})"


def _items(what: str, value: Any, name: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise DataError(f"{name}: {what} is a {type(value).__name__}; it must be a list")
    return tuple(value)


def _for_each(what: str, value: Any, branches: int, name: str) -> tuple[Any, ...]:
    items = _items(what, value, name)
    if items and len(items) != branches:
        raise DataError(f"{name}: {len(items)} {what} for {branches} branches; give one for each")
    return items


def _channels(value: Any, branches: int, name: str) -> dict[str, tuple[float, ...]]:
    if not isinstance(value, Mapping):
        raise DataError(f"{name}: channels is a {type(value).__name__}; it must be a dict by name")
    found = {}
    for key, given in value.items():
        numbers = _for_each(f"numbers of channel {key!r}", given, branches, name)
        if not numbers or not all(isinstance(x, Real) and math.isfinite(x) for x in numbers):
            raise DataError(
                f"{name}: channel {key!r} must have a finite number for each branch, got "
                f"{shown(given)}"
            )
        found[key] = tuple(map(float, numbers))
    return found


def _turns(branch: Any, name: str) -> tuple[Turn, ...]:
    is_listed = isinstance(branch, Iterable) and not isinstance(branch, str)
    turns = tuple(branch) if is_listed else (branch,)
    for turn in turns:
        if not _is_turn(turn):
            raise DataError(
                f"{name}: a turn must be a question and an answer, two texts, got {shown(turn)}; "
                "branches is a list of conversations, each a list of turns: [[(question, answer)]]"
            )
    return tuple(Turn(*turn) for turn in turns)


def _medium(medium: Any, name: str) -> Medium:
    if not _is_medium(medium):
        raise DataError(
            f"{name}: a medium must be (kind, value), got {shown(medium)}; media is a list of "
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
    records: str | os.PathLike[str] | Iterable[Any],
    images: str | os.PathLike[str] | None = None,
    *,
    on_error: OnError = "raise",
    format: RecordFormat = None,  # noqa: A002 (the word that data sets use)
    text_before_media: TextBeforeMedia | None = None,
    by_question: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> GroupedConversations:
    r"""Group conversation records into examples: those that share their media become one tree.

    A record is ``{"id", "image": path, "conversations": [{"from": "human", "value": "<image>\nQ"},
    {"from": "gpt", "value": "A"}, ...]}``, or in any other format of ``docs/data.md``, which is
    found by its fields. Each of its conversations becomes one branch, however many turns it has.
    ``image`` and ``video`` take one medium or a list: paths, the bytes of files, PIL images, uint8
    arrays. Media are the same if their path is, or else their contents. Records without media are
    examples of their own; so are records whose ``system`` texts differ.

    Args:
        records: a file (JSON lines, a JSON list, both also gzipped; Parquet; Arrow; a tar archive
            of webdataset), a pattern or a list of files, a folder that ``datasets`` saved, a
            ``datasets.Dataset``, or the records themselves.
        images: folder that relative paths start from; by default that of the file, or the current
            one.
        on_error: a record that makes no sense: ``"raise"``, or ``"skip"`` and count it in
            ``skipped``.
        format: name of the format, where fields of several are there; or a function that turns a
            record into one in a format, which must be importable by workers.
        text_before_media: ``"move"`` puts text that stands before media behind them, ``"keep"``
            leaves it, and records that differ in it are trees of their own. By default it is moved
            if there is one medium and kept if there are several. What a record becomes never
            depends on the records that it shares its media with.
        by_question: only conversations that begin with the same question share a tree, as models
            need whose prompt sees ahead (PaliGemma): their question is part of the root.
        cache: folder for files that are made once (unpacked text, Parquet as Arrow, the index of an
            archive); by default they lie beside the file.

    Returns:
        A source for `PackedDataset`: ``len(source)`` and ``source[i]``, a `Conversations`; examples
        stand in the order in which their first record appears. Records are read again when they
        are asked for, so it holds a few numbers for each, and is cheap to copy into workers.

    Raises:
        DataError: a record that makes no sense, named by file and line; a file that cannot be read;
            no record at all.
        DatasetError: an option that does not exist, or what is no collection of records.

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
    if on_error not in get_args(OnError):
        raise DatasetError(f"on_error must be 'raise' or 'skip', got {shown(on_error)}")
    for option, value in (("images", images), ("cache", cache)):
        if value is not None and not isinstance(value, (str, os.PathLike)):
            raise DatasetError(f"{option} must be the path of a folder, got {shown(value)}")
    folder = os.fspath(folder_of(records) if images is None else images)
    folder = "" if folder == "." else folder
    reader = RecordReader(folder, format, text_before_media, bool(by_question))
    return GroupedConversations(open_store(records, cache), reader, on_error)


class GroupedConversations(Sequence[Conversations]):
    """Conversation records by example; what `group_conversations` returns.

    Attributes:
        skipped: records that made no sense and were left out.
    """

    def __init__(self, store: Store, reader: RecordReader, on_error: OnError) -> None:
        self.store = store
        self.reader = reader
        self._groups = find_groups(store, reader, on_error == "skip")
        self.skipped: int = self._groups.skipped

    def __len__(self) -> int:
        return len(self._groups.ends)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Conversations: ...

    @overload
    def __getitem__(self, index: slice) -> list[Conversations]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Conversations | list[Conversations]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        records, parts, ends, _ = self._groups
        members = slice(ends[index - 1] if index else 0, ends[index])
        found = zip(records[members].tolist(), parts[members].tolist(), strict=True)
        read = [self._read(record)[part] for record, part in found]
        return _example(join_records(read), self.store.name(int(records[members.start])))

    def __repr__(self) -> str:
        records = len(set(self._groups.records.tolist()))
        counts = {"examples": len(self), "records": records, "skipped": self.skipped}
        parts = [f"{name}={count}" for name, count in counts.items() if count or name != "skipped"]
        path = [repr(str(self.store.path))] if self.store.path else []
        return f"GroupedConversations({', '.join(path + parts)})"

    def _read(self, index: int) -> list[Record]:
        return self.reader.read(self.store[index], self.store.name(index))


def read_record(raw: Mapping[str, Any], name: str) -> Conversations:
    """A conversation record as an example of its own.

    Args:
        raw: as `group_conversations` takes it; relative paths start at the current folder.
        name: what errors call it, and the example if the record does not say.

    Raises:
        DataError: a record that makes no sense, or whose conversations cannot share a tree.
    """
    found = RecordReader().read(raw, name)
    if len(found) > 1:
        raise DataError(
            f"{name}: its conversations differ in what stands before them, so they are "
            f"{len(found)} examples; pass the records through group_conversations"
        )
    return _example(found[0], name)


def _example(record: Record, name: str) -> Conversations:
    # Those of all its branches: records that have others are of another example.
    names = record.channels[0]
    return Conversations(
        branches=record.branches,
        media=record.media,
        texts=record.texts,
        system=record.system,
        key=record.key or name,
        roles=record.roles,
        channels={channel: [numbers[channel] for numbers in record.channels] for channel in names},
    )
