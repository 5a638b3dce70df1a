"""Kernels that run one attention call; each is a module of this package, found by its name.

The default for a device is the module of that name. A new backend is one new file with the three
functions of `Backend`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Protocol, cast

from torch import Tensor

from treepack.attention.plan import Call
from treepack.errors import AttentionError


class Backend(Protocol):
    """What the executor needs; tensors hold the rows of one call."""

    def check(self, q: Tensor) -> None:
        """Refuse a device, dtype or head size that the kernels cannot serve."""

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
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise AttentionError(
            f"no attention backend {name!r}; there are {known}: move the tensors to such a device, "
            "or name one with backend="
        )
    return cast("Backend", importlib.import_module(f"{__name__}.{name}"))
