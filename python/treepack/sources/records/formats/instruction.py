"""``{"instruction": ..., "input": ..., "output": ..., "history": [[Q, A], ...]}``: Alpaca.

The question is the instruction and, on the next line, the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.sources.records.base import Said, exchange, is_given, text_of
from treepack.sources.records.history import earlier_turns

FIELDS = (("instruction",), ("output",))
HAS_HISTORY = True


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One; the turns of its history come first."""
    question = text_of(record, "instruction", name)
    if is_given(record.get("input")):
        question = "\n".join(filter(None, [question, text_of(record, "input", name)]))
    turns = earlier_turns(record, name)
    last = exchange(question, text_of(record, "output", name))
    return [Said([*turns, *last], is_tagged=bool(turns))]
