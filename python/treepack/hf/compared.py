"""Which models have been compared, packed, with each path alone; the others need a word."""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any

from treepack.errors import AttentionError
from treepack.hf.checks import attention_layers, text_model

TABLE = Path(__file__).with_suffix(".json")
"""For each version of transformers the classes that were exact with it, each with the class of its
text model; ``make models`` writes it."""

LIBRARY = ("transformers.", "torch.")

Kinds = frozenset[type]

_PASSED: set[Kinds] = set()
"""The classes of models that `check_exact` has passed in this process."""


def check_compared(model: Any) -> None:
    """Reject a model of a class that nobody has compared.

    A subclass counts as the class of transformers that it comes from, as long as the forward of the
    model, of its text model and of its attention layers are those of transformers.

    Args:
        model: of transformers.

    Raises:
        AttentionError: the class is not in the table, and has not passed `check_exact` here.
    """
    if _kinds(model) in _PASSED:
        return
    reason = _why_unknown(model)
    if reason:
        raise AttentionError(
            f"{type(model).__name__} has not been compared with each path alone: {reason}. Compare "
            "it with tp.testing.check_exact(model, family, examples) or tp.families.learn("
            "processor, model): once that passes, tp.hf.prepare(model) takes this class for the "
            "rest of the process. tp.hf.prepare(model, unchecked=True) takes it without"
        )


def note_passed(model: Any) -> None:
    """Let `check_compared` take models of these classes for the rest of the process."""
    _PASSED.add(_kinds(model))


@functools.cache
def compared() -> dict[str, str]:
    """Names of the classes that were exact, each with that of its text model's class."""
    found: dict[str, str] = {}
    for classes in json.loads(TABLE.read_text()).values():
        found.update(classes)
    return found


def _why_unknown(model: Any) -> str | None:
    for kind in sorted(_kinds(model), key=lambda kind: kind.__name__):
        forward = inspect.unwrap(kind.__dict__.get("forward", getattr(kind, "forward", None)))
        module = getattr(forward, "__module__", None) or ""
        if not module.startswith(LIBRARY):
            return f"{kind.__name__}.forward is that of {module or 'something else'}"
    name, text = (_name(type(part)) for part in (model, _text(model)))
    if name not in compared():
        return f"the table of treepack ({TABLE.name}) does not have {name}"
    if text not in compared().values():
        return f"the table of treepack ({TABLE.name}) has no model with a {text}"
    return None


def _text(model: Any) -> Any:
    text = text_model(model)
    return getattr(text, "_orig_mod", text)


def _kinds(model: Any) -> Kinds:
    """Classes of the parts whose forward decides how tokens see each other."""
    return frozenset(map(type, (model, model.base_model, _text(model), *attention_layers(model))))


def _name(kind: type) -> str:
    """Of the class of transformers that a class is, or comes from."""
    own = (base for base in kind.__mro__ if base.__module__.startswith("transformers.models."))
    return next(own, kind).__name__
