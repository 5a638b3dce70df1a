"""``{"prompt": ..., "responses": [...], "rewards": [...]}``: several answers to one prompt.

Each answer is a branch, a text or a list of messages. ``rewards``, ``advantages`` and ``scores``
give each a number, which becomes a channel: ``reward``, ``advantage``, ``score``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from treepack.errors import DataError
from treepack.sources.records.base import Said, finite_of, is_given, listed, shown
from treepack.sources.records.dialogue import as_turns

FIELDS = (("prompt",), ("responses", "completions"))
NUMBERS = {"rewards": "reward", "advantages": "advantage", "scores": "score"}
"""Fields with a number for each answer, and the channels that they become."""


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One for each answer: the prompt, and it."""
    given = [field for field in FIELDS[1] if is_given(record.get(field))]
    if len(given) > 1:
        raise DataError(f"{name}: has 'responses' and 'completions'; leave one")
    prompt, answers = record["prompt"], record[given[0]]
    if not isinstance(answers, (list, tuple)) or not all(map(is_given, answers)):
        raise DataError(
            f"{name}: {given[0]!r} must be a list of answers, none empty, got {shown(answers)}; a "
            "single one is called 'response' or 'completion'"
        )
    numbers = _numbers(record, len(answers), name)
    turns = as_turns(prompt, "prompt", name)
    return [
        Said(
            [*turns, *as_turns(answer, given[0], name)],
            is_tagged=not isinstance(prompt, str),
            channels={channel: each[n] for channel, each in numbers.items()},
        )
        for n, answer in enumerate(answers)
    ]


def _numbers(record: Mapping[str, Any], count: int, name: str) -> dict[str, Sequence[float]]:
    found: dict[str, Sequence[float]] = {}
    for field, channel in NUMBERS.items():
        if not is_given(record.get(field)):
            continue
        numbers = [finite_of(value) for value in listed(record[field])]
        if len(numbers) != count or None in numbers:
            raise DataError(
                f"{name}: {field!r} must be a list of {count} finite numbers, one for each answer, "
                f"got {shown(record[field])}"
            )
        found[channel] = [number for number in numbers if number is not None]
    return found
