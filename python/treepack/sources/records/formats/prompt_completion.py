"""``{"prompt": ..., "completion": ...}``: two texts, or two lists of messages; TRL.

``label``, true or false, says whether the answer is good or bad: its role, as KTO needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from treepack.errors import DataError
from treepack.sources.records.base import Said, is_given, shown
from treepack.sources.records.dialogue import as_turns

FIELDS = (("prompt",), ("completion", "response"))


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One: the prompt and what completes it."""
    answers = [field for field in FIELDS[1] if is_given(record.get(field))]
    if len(answers) > 1:
        raise DataError(f"{name}: has 'completion' and 'response'; leave one")
    prompt, answer = record["prompt"], record[answers[0]]
    turns = [*as_turns(prompt, "prompt", name), *as_turns(answer, answers[0], name)]
    return [Said(turns, _role(record, name), is_tagged=not isinstance(prompt, str))]


def _role(record: Mapping[str, Any], name: str) -> str | None:
    """What KTO's ``label`` says of the answer."""
    label = record.get("label")
    if label is None:
        return None
    if not isinstance(label, (bool, np.bool_)):
        raise DataError(
            f"{name}: 'label' must be true for a good answer or false for a bad one, got "
            f"{shown(label)}"
        )
    return "good" if label else "bad"
