"""What the costs of a family depend on, as JSON, and how two of them differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from treepack.errors import CostError
from treepack.families.chat_format import ChatFormat

PROBE = (
    "What is it? A cat, 3.14 km away.\n\nThe QUICK brown fox doesn't jump; naïve façade. "
    "这是什么? Это кошка. قطة 🙂 def f(x): return x**2  # 1234567890 <|im_start|><image>\t"
)
"""Two tokenizers that take this text apart alike are taken for one."""

PATHS = ("name_or_path", "_name_or_path", "auto_map", "tokenizer", "chat_template")


def describe(family: Any) -> dict[str, Any]:
    """Everything that costs depend on beside the data, JSON-safe.

    Args:
        family: of the model, or ``None`` where the source gives trees.

    Returns:
        The family's name, the settings of the processor, and digests of the chat template and of
        what the tokenizer does. Paths are not in it.
    """
    if family is None:
        return {"family": None}
    processor, chat = getattr(family, "processor", None), getattr(family, "chat", None)
    tokenizer = getattr(family, "tokenizer", None)
    found = {
        "family": getattr(family, "name", type(family).__name__),
        "processor": {"class": type(processor).__name__, **_settings_of(processor, tokenizer)},
        "tokenizer": _tokenizer(tokenizer),
        "chat_template": _digest(_template(processor) or _template(tokenizer)),
        "chat": dataclasses.asdict(chat) if isinstance(chat, ChatFormat) else None,
        "learned": family.to_dict() if hasattr(family, "to_dict") else None,
    }
    safe: dict[str, Any] = json.loads(json.dumps(found, default=str, sort_keys=True))
    return safe


def check_measured_with(settings: Mapping[str, Any] | None, family: Any) -> None:
    """Reject costs that were measured under other settings.

    Args:
        settings: of the costs, from `describe`; ``None`` if nothing is known of them.
        family: that packs them; ``None`` where the source gives trees.

    Raises:
        CostError: they differ; the message names both.
    """
    if settings is None or settings.get("family") is None:
        return
    found = describe(family)
    differences = list(_differences(settings, found))
    if differences:
        shown = "; ".join(
            f"{name} was {a!r:.80} and is {b!r:.80}" for name, a, b in differences[:3]
        )
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise CostError(
            f"the table was measured with other settings than those of the dataset: {shown}{more}; "
            "measure again, or use the processor that the table was measured with"
        )


def _differences(
    a: Mapping[str, Any], b: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*a, *b}):
        left, right = a.get(name), b.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _differences(left, right, f"{path}{name}.")
        elif left != right:
            yield f"{path}{name}", left, right


def _settings_of(processor: Any, tokenizer: Any) -> dict[str, Any]:
    if processor is tokenizer or not hasattr(processor, "to_dict"):
        return {}
    return {k: v for k, v in _without_paths(processor.to_dict()).items() if v is not None}


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_paths(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in PATHS
    }


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    try:
        ids = list(tokenizer.encode(PROBE, add_special_tokens=False))
    except Exception:
        # One of the user's own, which knows less.
        return {"class": type(tokenizer).__name__}
    return {"class": type(tokenizer).__name__, "of_a_sample": _digest(json.dumps(ids))}


def _template(holder: Any) -> str:
    template = getattr(holder, "chat_template", None)
    return json.dumps(template, default=str, sort_keys=True) if template else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""
