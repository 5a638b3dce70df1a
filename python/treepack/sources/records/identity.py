"""Which media are the same: by path where there is one, else by contents."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np

from treepack.errors import DataError


def identity(value: Any) -> Any:
    """What equal media have in common.

    Args:
        value: as in `Medium`. A path stands for itself, nothing is opened; everything else is
            read once, so that the same photograph in ten records is one.

    Raises:
        DataError: an image in memory whose pixels cannot be decoded.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [identity(frame) for frame in value]
    if isinstance(value, bytes):
        return _digest(value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, _digest(np.ascontiguousarray(value).data)
    return _image_identity(value)


def _image_identity(image: Any) -> Any:
    path = getattr(image, "filename", "")
    if isinstance(path, str) and path and getattr(image, "fp", None) is not None:
        # Opened and not decoded yet: nobody has changed its pixels, and nobody need decode them.
        return path
    try:
        palette = image.getpalette() if image.mode == "P" else None
        info = {name: image.info.get(name) for name in ("transparency", "exif")}
        return image.mode, image.size, palette, repr(info), _digest(image.tobytes())
    except Exception as error:
        # Decoders raise whatever they like for a broken file: OSError, SyntaxError, struct.error.
        raise DataError(f"an image cannot be read: {error}; replace or remove it") from error


def _digest(contents: Any) -> str:
    return blake2b(contents, digest_size=16).hexdigest()
