"""Kernels that run one attention call; each is a module of this package, found by its name.

The default for a device is the module of that name, on a GPU that of the FlashAttention which torch
runs. A new backend is one new file with the three functions of `Backend`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Protocol, cast

import torch
from torch import Tensor

from treepack.attention import implementations
from treepack.attention.plan import Call
from treepack.errors import AttentionError
from treepack.options import AttentionBackend

WITHOUT_GAPS = frozenset({"fa3", "fa4"})
"""Backends whose kernels get no empty segments: some hang on them, none promises zeros."""

NAMES = (*sorted(module.name for module in pkgutil.iter_modules(__path__)), "flex")
"""All that there are; found here, since torch cannot compile the search."""


class Backend(Protocol):
    """What the executor needs; tensors hold the tokens of one call."""

    def check(self, q: Tensor) -> None:
        """Reject a device, dtype or head size that the kernels do not support."""

    def forward(
        self, call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Attention ``[n, H, D]``, 0 without keys, and lse ``[H, n]``, infinite without keys."""

    def backward(
        self,
        call: Call,
        grad_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """This call's share of dq, dk, dv, given the merged ``out`` and contiguous ``lse``."""


@functools.cache
def load(name: str) -> Backend:
    """The backend of this name.

    Raises:
        AttentionError: there is none.
    """
    if checked_name(name) == "flex":
        raise AttentionError("the backend 'flex' runs no plan; call tree_attention(backend='flex')")
    return cast("Backend", importlib.import_module(f"{__name__}.{name}"))


def checked_name(name: str) -> AttentionBackend:
    """The same name, of a backend that there is.

    Raises:
        AttentionError: there is none.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise AttentionError(
            f"no attention backend {name!r:.200}; there are {[*NAMES]}: move the tensors to such a "
            "device, or name one with backend="
        )
    return name  # type: ignore[return-value]


def default(device: torch.device) -> str:
    """Name of the backend for tensors on a device."""
    running = implementations.active() if device.type == "cuda" else None
    return device.type if running is None else running.lower()
