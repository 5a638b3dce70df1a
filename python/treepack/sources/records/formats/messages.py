"""``{"messages": [{"role": "user", "content": ...}, ...], "images": [...]}``: TRL, ms-swift.

LLaMA-Factory and Nemotron as well. ``content`` is a text in which ``<image>`` stands for an image,
or a list of parts ``{"type": "text", "text": ...}``, ``{"type": "image", "image": path}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.sources.records.base import Said
from treepack.sources.records.formats.conversations import turns_of

FIELDS = (("messages",),)


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One, of its turns."""
    return [Said(turns_of(record, FIELDS[0], name))]
