"""``{"image": ..., "conversations": [{"from": "human", "value": "<image>Q"}, ...]}``: LLaVA.

OneVision, LLaVA-Video, InternVL and Qwen-VL's finetuning records as well, and ``conversation``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from treepack.errors import DataError
from treepack.sources.records.base import Said, is_given, shown

FIELDS = (("conversations", "conversation"),)


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One, of its turns."""
    return [Said(turns_of(record, FIELDS[0], name))]


def turns_of(record: Mapping[str, Any], fields: tuple[str, ...], name: str) -> Sequence[Any]:
    """The turns in the one of these fields that is given.

    Raises:
        DataError: no list, or several fields that are given.
    """
    given = [field for field in fields if is_given(record.get(field))]
    if len(given) != 1:
        raise DataError(f"{name}: has {' and '.join(map(repr, given))}; leave one")
    turns = record[given[0]]
    if not isinstance(turns, (list, tuple)):
        raise DataError(f"{name}: {given[0]!r} must be a list of turns, got {shown(turns)}")
    return turns
