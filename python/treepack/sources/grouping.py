"""Which records make up which example: those that share system text, media and their texts."""

from __future__ import annotations

import logging
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import DataError
from treepack.sources.records.reader import RecordReader, group_of
from treepack.sources.stores.base import Store

logger: logging.Logger = logging.getLogger("treepack")


class Groups(NamedTuple):
    """Records by example; examples stand in the order of their first record.

    A record may have several parts, of different examples; a part is what `RecordReader` returns.

    Attributes:
        records: int64 ``[members]``, in order within each example.
        parts: int32 ``[members]``, which part of the record.
        ends: int64 ``[examples]``, the members of each example end there.
        skipped: how many records made no sense.
    """

    records: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]
    skipped: int


def find_groups(store: Store, reader: RecordReader, skips: bool) -> Groups:
    """Read every record once and find those that belong together.

    What is kept of a record in the meantime is 28 bytes.

    Args:
        store: of the records.
        reader: of each.
        skips: count records that make no sense instead of raising.

    Raises:
        DataError: a record that makes no sense, or no record at all that does.
    """
    digests = bytearray()
    records, parts = array("q"), array("i")
    skipped, first_error = 0, ""
    for index, raw in enumerate(with_progress(store, len(store), "grouping records")):
        try:
            name = store.name(index)
            parts_of = enumerate(reader.read(raw, name))
            found = [_digest(part, index, n, name, reader.by_question) for n, part in parts_of]
        except DataError as error:
            if not skips:
                raise
            skipped += 1
            first_error = first_error or str(error)
            continue
        for part, digest in enumerate(found):
            digests += digest
            records.append(index)
            parts.append(part)
    if not records:
        what = f"all {skipped} records were skipped, the first: {first_error}" if skipped else ""
        raise DataError(f"{store.path or 'records'}: {what or 'there is no record in it'}")
    if skipped:
        logger.warning(
            "%s: %d of %d records were skipped, the first: %s",
            store.path or "records",
            skipped,
            len(store),
            first_error,
        )
    return _grouped(digests, np.array(records), np.array(parts, np.int32), skipped)


def _digest(part: Any, index: int, number: int, name: str, by_question: bool) -> bytes:
    if part.media:
        return group_of(part, name, by_question)
    # Nothing to share: an example of its own.
    return index.to_bytes(8, "big") + number.to_bytes(8, "big")


def _grouped(
    digests: bytearray, records: npt.NDArray[np.int64], parts: npt.NDArray[np.int32], skipped: int
) -> Groups:
    halves = np.frombuffer(bytes(digests), np.int64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal ones stay in order
    halves = halves[order]
    is_new = np.append(True, (halves[1:] != halves[:-1]).any(1))
    # Every member knows the first one of its example; in their order, examples are in order.
    firsts = np.empty(len(order), np.int64)
    firsts[order] = order[is_new][np.cumsum(is_new) - 1]
    members = np.argsort(firsts, kind="stable")
    firsts = firsts[members]
    ends = np.append(np.flatnonzero(firsts[1:] != firsts[:-1]) + 1, len(firsts))
    return Groups(records[members], parts[members], ends, skipped)


def with_progress(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """The items, with a bar on a terminal if ``rich`` is installed; else nothing is shown."""
    if not sys.stderr.isatty():
        return iter(items)
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return iter(items)
    console = Console(stderr=True)
    return iter(track(items, what, total, console=console, transient=True))
