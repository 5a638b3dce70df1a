"""FlashAttention 3, for Hopper, where its package is installed.

Its plan has no empty segments: on those its backward may wait for ever.
"""

from __future__ import annotations

from torch import Tensor

from treepack.attention import implementations
from treepack.attention.backends.cuda import backward, check_input, forward

__all__ = ["backward", "check", "forward"]


def check(q: Tensor) -> None:
    """Refuse what the kernel does not know; torch then runs it for every attention."""
    check_input(q)
    implementations.require("FA3")
