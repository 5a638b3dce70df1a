"""Model families: one module each, found by its name or by the class of the processor.

Public names:

    find             the family that supports a processor
    families         every family by name
    learn            a family for a model that none is declared for
    LearnedFamily    what `learn` returns; it can be saved as JSON
    ChatFormat       how turns are written
    Family           base of all families
    ProcessorFamily  base of those whose processor makes the root
    MediumFamily     base of those that measure each medium themselves
    Join             how one of a model's inputs is joined over media
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from treepack._lazy import lazy_names
from treepack.errors import FamilyError
from treepack.families.base import Family
from treepack.families.by_medium import MediumFamily
from treepack.families.by_processor import ProcessorFamily
from treepack.families.chat_format import ChatFormat
from treepack.families.joins import Join
from treepack.families.learned import LearnedFamily

if TYPE_CHECKING:
    from treepack.check.learn import learn

__all__ = [
    "ChatFormat",
    "Family",
    "Join",
    "LearnedFamily",
    "MediumFamily",
    "ProcessorFamily",
    "families",
    "find",
    "learn",
]

if not TYPE_CHECKING:
    # It needs a model, and lies to the right of what this wing may import.
    __getattr__, __dir__ = lazy_names(__name__, {"learn": "treepack.check.learn[hf]"})


def families() -> dict[str, type[Family]]:
    """Every family by name.

    A module of ``treepack.families`` that names its class ``FAMILY`` is found by itself.

    Example:
        >>> sorted(families())[:3]
        ['cohere2_vision', 'ernie4_5_vl', 'gemma3']
    """
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    kinds = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {kind.name: kind for kind in kinds}


def find(processor: Any, family: str | None = None, chat: ChatFormat | None = None) -> Family:
    """The family that supports a processor.

    Args:
        processor: Hugging Face processor of the model.
        family: name of the family; by default the one that supports the processor's class, or a
            class that it inherits from.
        chat: how turns are written; by default as in the model's chat template.

    Returns:
        A family, set up with the processor. It can be pickled.

    Raises:
        FamilyError: no family has that name or supports that class, the tokenizer lacks a special
            token that the family needs, or ``chat`` is not a `ChatFormat`.

    Example:
        With a stub; users pass ``AutoProcessor.from_pretrained(...)``, and no name:

        >>> from types import SimpleNamespace as Stub
        >>> tokens = {"<image>": 1, "<video>": 2, "<start>": 3, "<end>": 4}
        >>> processor = Stub(
        ...     tokenizer=Stub(convert_tokens_to_ids=tokens.get, unk_token_id=None, eos_token_id=0),
        ...     image_token="<image>",
        ...     video_token="<video>",
        ...     vision_start_token="<start>",
        ...     vision_end_token="<end>",
        ... )
        >>> find(processor, "qwen3_vl").costs
        ('tokens', 'patches')
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
