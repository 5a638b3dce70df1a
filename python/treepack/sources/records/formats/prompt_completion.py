"""``{"prompt": ..., "completion": ...}``: two texts, or two lists of messages; TRL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.errors import DataError
from treepack.sources.records.base import Said, is_given
from treepack.sources.records.dialogue import as_turns

FIELDS = (("prompt",), ("completion", "response"))


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One: the prompt and what completes it."""
    answers = [field for field in FIELDS[1] if is_given(record.get(field))]
    if len(answers) > 1:
        raise DataError(f"{name}: has 'completion' and 'response'; leave one")
    if isinstance(record.get("label"), bool):
        raise DataError(
            f"{name}: 'label': {record['label']} marks the answer as good or bad, which is not "
            "read; leave the bad ones out, or pair them: write 'prompt', 'chosen' and 'rejected'"
        )
    prompt, answer = record["prompt"], record[answers[0]]
    turns = [*as_turns(prompt, "prompt", name), *as_turns(answer, answers[0], name)]
    return [Said(turns, is_tagged=not isinstance(prompt, str))]
