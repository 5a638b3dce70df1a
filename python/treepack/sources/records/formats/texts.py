"""``{"images": [...], "texts": [{"user": Q, "assistant": A}, ...]}``: FineVision, the_cauldron.

Docmatix as well. Each entry is an annotation of its own, so each is a branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.errors import DataError
from treepack.sources.records import unsupported
from treepack.sources.records.base import Said, exchange, listed, shown, text_of

FIELDS = (("texts",),)


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One for each entry."""
    return [_said(entry, name) for entry in listed(record["texts"])]


def _said(entry: Any, name: str) -> Said:
    if not isinstance(entry, Mapping):
        raise DataError(
            f"{name}: 'texts' must be a list of {{'user': ..., 'assistant': ...}}, "
            f"got {shown(entry)}"
        )
    unsupported.reject(entry, unsupported.TURN, "an entry of 'texts'", name)
    question, answer = (text_of(entry, field, name) for field in ("user", "assistant"))
    return Said(exchange(question, answer), is_tagged=False)
