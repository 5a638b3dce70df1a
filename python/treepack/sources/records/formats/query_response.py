"""``{"query": Q, "response": A, "history": [[Q, A], ...]}``: ms-swift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.sources.records.base import Said, exchange, text_of
from treepack.sources.records.history import earlier_turns

FIELDS = (("query",), ("response",))
HAS_HISTORY = True


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One; the turns of its history come first."""
    turns = earlier_turns(record, name)
    last = exchange(text_of(record, "query", name), text_of(record, "response", name))
    # With a history it is not clear whether media stand before its first question or the last.
    return [Said([*turns, *last], is_tagged=bool(turns))]
