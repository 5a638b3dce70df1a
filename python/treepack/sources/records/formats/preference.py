"""``{"prompt": ..., "chosen": ..., "rejected": ...}``: two answers, one better; TRL.

Two branches, ``chosen`` and then ``rejected``. Each answer is a text, a message or a list of
messages; the prompt too, also under ``question``, ``query``, ``conversations`` or ``messages``, or
it stands in both lists of messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.errors import DataError
from treepack.sources.records.base import Said, is_given
from treepack.sources.records.dialogue import as_turns, is_answered

FIELDS = (("chosen",), ("rejected",))
PROMPTS = ("prompt", "question", "query", "conversations", "messages")


def uses(record: Mapping[str, Any]) -> set[str]:
    """Formats whose fields are the prompt here: turns without a last answer."""
    return {f for f in ("conversations", "messages") if not is_answered(record.get(f))}


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """Two: the prompt and the better answer, the prompt and the worse one."""
    prompt, is_text = _prompt(record, name)
    return [
        Said([*prompt, *as_turns(record[role], role, name)], role, is_tagged=not is_text)
        for role in ("chosen", "rejected")
    ]


def _prompt(record: Mapping[str, Any], name: str) -> tuple[list[Any], bool]:
    fields = (field for field in PROMPTS if is_given(record.get(field)))
    given = [field for field in fields if not is_answered(record[field])]
    if len(given) > 1:
        raise DataError(
            f"{name}: has {' and '.join(map(repr, given))} beside 'chosen' and 'rejected'; leave "
            "the one that is asked"
        )
    if given:
        value = record[given[0]]
        return as_turns(value, given[0], name), isinstance(value, str)
    if isinstance(record["chosen"], str) or isinstance(record["rejected"], str):
        raise DataError(
            f"{name}: 'chosen' and 'rejected' are texts without a question; write it in 'prompt'"
        )
    return [], False
