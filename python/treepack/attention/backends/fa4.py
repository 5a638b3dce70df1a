"""FlashAttention 4, for Hopper and Blackwell, where its package is installed.

Anti-causal calls run backwards, as causal ones: not every release has windows in its backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from treepack.attention import implementations
from treepack.attention.backends import cuda
from treepack.attention.plan import ANTI_CAUSAL, ANTI_CAUSAL_GATHERED, SELF, Call
from treepack.errors import AttentionError

MAJORS = (9, 10)

TORCH = (2, 15)
"""Earlier ones unpack what the kernels of today no longer return."""


def check(q: Tensor) -> None:
    """Reject what the kernel does not know; torch then runs it for every attention."""
    cuda.check_input(q)
    cuda.check_device(q.device, MAJORS)
    found = tuple(map(int, torch.__version__.split(".")[:2]))
    if found < TORCH:
        raise AttentionError(
            f"FA4 wants torch 2.15 or later, this is {torch.__version__}; update torch, call "
            "torch.nn.attention.restore_flash_attention_impl(), or leave backend out"
        )
    implementations.require("FA4")


def forward(call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one call."""
    if not _is_turned(call):
        return cuda.forward(call, q, k, v, scale)
    q, k, v = (x.flip(0) for x in (q, k, v))
    out, lse = cuda.forward(_turn(call), q, k, v, scale)
    return out.flip(0), lse.flip(1)


def backward(
    call: Call,
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one call."""
    if not _is_turned(call):
        return cuda.backward(call, grad_out, q, k, v, out, lse, scale)
    grad_out, q, k, v, out = (x.flip(0) for x in (grad_out, q, k, v, out))
    dq, dk, dv = cuda.backward(_turn(call), grad_out, q, k, v, out, lse.flip(1), scale)
    return dq.flip(0), dk.flip(0), dv.flip(0)


def _is_turned(call: Call) -> bool:
    return call.kind in (ANTI_CAUSAL, ANTI_CAUSAL_GATHERED)


def _turn(call: Call) -> Call:
    """The call for tokens in the opposite order."""
    cu_q, cu_k = ((cu[-1:] - cu).flip(0) for cu in (call.cu_q, call.cu_k))
    return call._replace(kind=SELF, cu_q=cu_q, cu_k=cu_k)
