"""``{"image": ..., "question": ..., "answer": ...}`` or ``answers``, a list: VQA.

Several answers are what several people said: each that differs is a branch, and its weight the
share of those who said it, so that a question counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from treepack.errors import DataError
from treepack.sources.records import unsupported
from treepack.sources.records.base import Said, exchange, is_given, listed, shown, text_of

FIELDS = (("question",), ("answer", "answers"))


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One for each answer."""
    unsupported.reject(record, unsupported.QUESTION, "a question", name)
    if is_given(record.get("answer")) and is_given(record.get("answers")):
        raise DataError(f"{name}: has 'answer' and 'answers'; leave one")
    question = text_of(record, "question", name)
    given = "answer" if is_given(record.get("answer")) else "answers"
    answers = Counter(_text(answer, given, name) for answer in listed(record[given]))
    total = answers.total()
    return [
        Said(exchange(question, answer), weight=count / total, is_tagged=False)
        for answer, count in answers.items()
    ]


def _text(answer: Any, field: str, name: str) -> str:
    if isinstance(answer, Mapping):
        # VQAv2: {"answer": "yes", "answer_confidence": "maybe", "answer_id": 3}.
        answer = answer.get("answer")
    if not isinstance(answer, str):
        raise DataError(f"{name}: {field!r} must be a text or a list of texts, got {shown(answer)}")
    return answer
