"""FlashAttention 3, for Hopper, where its package is installed.

Its plan has no empty segments: on those its backward may hang.
"""

from __future__ import annotations

from torch import Tensor

from treepack.attention import implementations
from treepack.attention.backends import cuda
from treepack.attention.backends.cuda import backward, forward

__all__ = ["backward", "check", "forward"]

MAJORS = (9,)


def check(q: Tensor) -> None:
    """Reject what the kernel does not know; torch then runs it for every attention."""
    cuda.check_input(q)
    cuda.check_device(q.device, MAJORS)
    implementations.require("FA3")
