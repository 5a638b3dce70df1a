"""Turns of a record that were before its question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.errors import DataError
from treepack.sources.records.base import exchange, listed, shown


def earlier_turns(record: Mapping[str, Any], name: str) -> list[Any]:
    """The turns of the field ``history``: pairs of a question and an answer, or messages.

    Raises:
        DataError: entries that are neither.
    """
    turns: list[Any] = []
    for entry in listed(record.get("history")):
        if isinstance(entry, Mapping):
            turns.append(entry)
        elif isinstance(entry, (list, tuple)) and len(entry) == 2:
            turns += exchange(*entry)
        else:
            raise DataError(
                f"{name}: 'history' must be a list of pairs [question, answer], got {shown(entry)}"
            )
    return turns
