"""Model families: one module each, found by its name or by the class of the processor."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from treepack.errors import FamilyError
from treepack.families.base import Family
from treepack.families.chat_format import ChatFormat

__all__ = ["ChatFormat", "Family", "families", "find"]


def families() -> dict[str, type[Family]]:
    """Every family by name.

    A module of this package that names its class ``FAMILY`` is one.

    Example:
        >>> sorted(families())
        ['molmo2', 'qwen3_vl']
    """
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    kinds = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {kind.name: kind for kind in kinds}


def find(processor: Any, family: str | None = None, chat: ChatFormat | None = None) -> Family:
    """The family that supports a processor.

    Args:
        processor: Hugging Face processor of the model.
        family: name of the family, if the processor's class (or a class that it inherits from)
            does not say it.
        chat: how turns are written; by default as in the model's chat template.

    Returns:
        A family, set up with the processor. It can be pickled.

    Raises:
        FamilyError: no family has that name or supports that class; a processor without the parts
            or the special tokens that its family needs.
    """
    known = families()
    if chat is not None and not isinstance(chat, ChatFormat):
        raise FamilyError(f"chat must be a treepack.families.ChatFormat, got {type(chat).__name__}")
    if family is not None:
        if family not in known:
            raise FamilyError(f"no family is called {family!r}; there are {sorted(known)}")
        return known[family](processor, chat)
    classes = {kind.__name__ for kind in type(processor).__mro__}
    for candidate in known.values():
        if classes.intersection(candidate.processors):
            return candidate(processor, chat)
    supported = {name: kind.processors for name, kind in sorted(known.items())}
    raise FamilyError(
        f"no family supports {type(processor).__name__}; there are {supported}. Pass family= if it "
        "works like one of these, or a source that yields MessageTree"
    )
