"""What images and videos share: where their bytes come from, and what errors say about them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import DataError, MissingPackageError

UInt8 = npt.NDArray[np.uint8]

MOST_SHOWN = 200
"""Characters of any value in a message: a value may be a whole file, spelt out."""

RAW = (bytes, bytearray, memoryview)


def cut(text: str, most: int = MOST_SHOWN) -> str:
    """A text of at most ``most`` characters: its beginning and its end.

    Example:
        >>> cut("0123456789" * 100, 20)
        '0123456789...3456789'
    """
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}...{text[len(text) - (most - head - 3) :]}"


def show(value: Any) -> str:
    """How errors show the value of a medium, such as ``'cat.png'`` or ``of 812 bytes``."""
    if isinstance(value, RAW):
        return f"of {memoryview(value).nbytes} bytes"
    if isinstance(value, (list, tuple)):
        return f"of {len(value)} frames"
    if isinstance(value, (str, os.PathLike)):
        return cut(repr(os.fspath(value)))
    return f"given as {type(value).__name__}"


def opened(value: Any) -> Any:
    """What decoders open: the path of a file that exists, or a stream of the given bytes."""
    if isinstance(value, RAW):
        return io.BytesIO(value)
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError("it is neither a path nor bytes nor pixels")
    path = os.fspath(value)
    try:
        os.stat(path)  # noqa: PTH116 (of each image that is measured; Path takes 4 us more)
    except (OSError, ValueError) as error:
        if isinstance(path, str) and (path.startswith("data:") or "://" in path):
            raise ValueError("it is a URL, and only files are read; download it first") from error
        raise
    return path


@contextmanager
def reading(kind: str, value: Any, name: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a `DataError` that names the example and the medium."""
    try:
        yield
    except (DataError, MissingPackageError):
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"{name}: {kind} {show(value)} does not exist; correct the path, or say where "
            "relative paths start"
        ) from error
    except Exception as error:
        # Decoders raise whatever they like for a broken file: OSError, SyntaxError, struct.error.
        raise DataError(
            f"{name}: {kind} {show(value)} cannot be read: {cut(str(error))}; replace or remove it"
        ) from error


def check_array(kind: str, array: npt.NDArray[Any], axes: tuple[int, ...], name: str) -> None:
    """Reject an array that is no image or video."""
    channels = array.shape[-1] if array.ndim == axes[-1] else 1
    fits = array.ndim in axes and channels in ((1, 3, 4) if kind == "image" else (3,))
    if array.dtype != np.uint8 or not fits or not array.size:
        wanted = "[height, width, 3]" if kind == "image" else "[frames, height, width, 3]"
        raise DataError(
            f"{name}: {kind} array must be uint8 {wanted}, got {array.dtype} of shape {array.shape}"
        )
