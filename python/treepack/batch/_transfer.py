"""Small tensors cross a process border in one buffer: each tensor alone costs a shared file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

INLINE_BYTES = 1 << 18
"""Largest tensor that travels inside the buffer; larger ones go through shared memory."""

ALIGN = 16

Layout = list[tuple[str, torch.dtype, tuple[int, ...], int]]


def pack_tensors(values: Mapping[str, Any]) -> tuple[Layout, bytes, dict[str, Any]]:
    """Split values into one buffer of small CPU tensors, its layout, and everything else.

    The order of the names is kept by a ``None`` entry for each tensor in the rest.
    """
    layout: Layout = []
    rest: dict[str, Any] = {}
    chunks: list[bytes] = []
    offset = 0
    for name, value in values.items():
        if not _travels_inline(value):
            rest[name] = value
            continue
        raw = _to_bytes(value)
        padding = -len(raw) % ALIGN
        chunks += (raw, bytes(padding))
        layout.append((name, value.dtype, tuple(value.shape), offset))
        rest[name] = None
        offset += len(raw) + padding
    return layout, b"".join(chunks), rest


def unpack_tensors(layout: Layout, blob: bytes, rest: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `pack_tensors` split, in their order; the small ones share one memory."""
    values = dict(rest)
    buffer = bytearray(blob)
    for name, dtype, shape, offset in layout:
        count = math.prod(shape)
        if count:
            flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=offset)
            values[name] = flat.view(shape)
        else:
            values[name] = torch.empty(shape, dtype=dtype)
    return values


def _travels_inline(value: Any) -> bool:
    return (
        type(value) is torch.Tensor
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.requires_grad
        and value.nbytes <= INLINE_BYTES
    )


def _to_bytes(value: torch.Tensor) -> bytes:
    try:
        array = value.numpy()
    except TypeError:
        # numpy has no bfloat16 and no float8.
        array = value.contiguous().view(-1).view(torch.uint8).numpy()
    raw: bytes = array.tobytes()
    return raw
