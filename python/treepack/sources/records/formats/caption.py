"""``{"image": ..., "caption": ...}``, one caption or a list: PixMo-Cap, img2dataset.

Each caption is the answer to an empty question, a branch of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.errors import DataError
from treepack.sources.records.base import KINDS, Said, exchange, is_given, listed, shown

FIELDS = (("caption", "captions"),)


def conversations(record: Mapping[str, Any], name: str) -> list[Said]:
    """One for each caption."""
    given = [field for field in FIELDS[0] if is_given(record.get(field))]
    if len(given) != 1:
        raise DataError(f"{name}: has 'caption' and 'captions'; leave one")
    if not any(is_given(record.get(f"{kind}{s}")) for kind in KINDS for s in ("", "s")):
        raise DataError(f"{name}: a caption of nothing; name the image in 'image'")
    captions = listed(record[given[0]])
    for caption in captions:
        if not isinstance(caption, str):
            raise DataError(f"{name}: {given[0]!r} must be texts, got {shown(caption)}")
    return [Said(exchange("", caption), is_tagged=False) for caption in captions]
