"""torch's own varlen FlashAttention: nothing to install, one kernel launch for each call."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from treepack.attention import implementations
from treepack.attention.plan import ANTI_CAUSAL, ANTI_CAUSAL_GATHERED, SELF, WINDOW, Call
from treepack.errors import AttentionError

DTYPES = (torch.float16, torch.bfloat16)
HEAD_SIZE_MAX, HEAD_SIZE_STEP = 256, 8

SCRATCH = 2**29
"""Bytes that the backward of one call may take for its segments, beside those for its tokens."""

SCRATCH_TOKENS = 128
"""Tokens of float32 that the kernel adds for each segment."""

LAUNCH = 2**16 - 1
"""Segments that one launch takes, by the limits of its grid."""

flash_forward: Any = torch.ops.aten._flash_attention_forward
flash_backward: Any = torch.ops.aten._flash_attention_backward


def check(q: Tensor) -> None:
    """Reject what the kernel does not know, and another one in its place."""
    check_input(q)
    implementations.require(None)


def check_input(q: Tensor) -> None:
    """Reject what FlashAttention does not know in any version."""
    if q.device.type != "cuda":
        raise AttentionError(f"the cuda backend takes tensors on a GPU, got {q.device}")
    if q.dtype not in DTYPES:
        raise AttentionError(
            f"FlashAttention takes float16 or bfloat16 on the GPU, got {q.dtype}; "
            "load the model in bfloat16 or run it under torch.autocast('cuda', torch.bfloat16)"
        )
    if q.shape[2] > HEAD_SIZE_MAX or q.shape[2] % HEAD_SIZE_STEP:
        raise AttentionError(
            f"head size {q.shape[2]}: FlashAttention takes multiples of {HEAD_SIZE_STEP} up to "
            f"{HEAD_SIZE_MAX}; pad the heads, or use backend='reference' for a small row"
        )
    check_device(q.device)


@functools.cache
def check_device(device: torch.device, majors: tuple[int, ...] = ()) -> None:
    """Reject a GPU that has no FlashAttention kernel, or not for one of these generations."""
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0) or (majors and capability[0] not in majors):
        needed = " or ".join(f"{major}.x" for major in majors) or "8.0, Ampere, or later"
        instead = "use backend='flex'"
        if majors:
            instead = "call torch.nn.attention.restore_flash_attention_impl(), or leave backend out"
        raise AttentionError(
            f"{torch.cuda.get_device_name(device)} has compute capability {capability}, this "
            f"FlashAttention needs {needed}; {instead}"
        )


def forward(call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one call."""
    first, *later = _pieces(call, LAUNCH)
    out, lse = _forward(first, q, k, v, scale)
    for piece in later:
        part, part_lse = _forward(piece, q, k, v, scale)
        out = _put(out, part, piece.cu_q)
        lse = _put(lse.T, part_lse.T, piece.cu_q).T
    return out, lse


def _forward(call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, lse, *_ = flash_forward(
        q,
        k,
        v,
        *_segments(call),
        0.0,
        call.kind in (SELF, WINDOW),
        False,
        scale=scale,
        **_window(call),
    )
    if lse.shape != (q.shape[1], q.shape[0]):
        raise AttentionError(
            f"this torch ({torch.__version__}) gives a log-sum-exp of shape {tuple(lse.shape)} for "
            f"{q.shape[0]} tokens and {q.shape[1]} heads; the merge needs [heads, tokens]"
        )
    return out, lse


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
    """Gradients of one call, with thousands of segments in several launches."""
    first, *later = _pieces(call, _most_segments(q))
    tensors = grad_out, q, k, v, out, lse
    dq, dk, dv = _backward(first, scale, *tensors)
    for piece in later:
        parts = _backward(piece, scale, *tensors)
        dq = _put(dq, parts[0], piece.cu_q)
        dk, dv = (_put(x, part, piece.cu_k) for x, part in zip((dk, dv), parts[1:], strict=True))
    return dq, dk, dv


def _most_segments(q: Tensor) -> int:
    bytes_each = SCRATCH_TOKENS * q.shape[1] * q.shape[2] * 4
    return min(LAUNCH, max(1, SCRATCH // int(bytes_each)))


def _pieces(call: Call, most: int) -> list[Call]:
    """The call, or several of at most so many segments."""
    n_seg = len(call.cu_q) - 1
    if n_seg <= most:
        return [call]
    cuts = [slice(first, min(first + most, n_seg) + 1) for first in range(0, n_seg, most)]
    return [call._replace(cu_q=call.cu_q[cut], cu_k=call.cu_k[cut]) for cut in cuts]


def _put(x: Tensor, part: Tensor, cu: Tensor) -> Tensor:
    """What a piece gives, in its place; a launch does not write what it leaves out."""
    token = torch.arange(len(x), device=x.device)
    return torch.where(
        ((token >= cu[0]) & (token < cu[-1])).view(-1, *[1] * (x.dim() - 1)), part, x
    )


def _backward(call: Call, scale: float, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # The random state of dropout, which there is none of: it must be there and is never read.
    rng_state = torch.zeros(2, dtype=torch.uint64, device=tensors[0].device)
    unused = torch.empty(0, device=tensors[0].device)
    dq, dk, dv = flash_backward(
        *tensors,
        *_segments(call),
        0.0,
        call.kind in (SELF, WINDOW),
        rng_state,
        unused,
        scale=scale,
        **_window(call),
    )
    return dq, dk, dv


def _segments(call: Call) -> tuple[Tensor, Tensor, int, int]:
    return call.cu_q, call.cu_k, call.max_q, call.max_k


def _window(call: Call) -> dict[str, Any]:
    # Only where needed: with some kernels any window, even an open one, is an error.
    if call.kind in (ANTI_CAUSAL, ANTI_CAUSAL_GATHERED):
        return {"window_size_left": 0, "window_size_right": -1}
    if call.kind == WINDOW:
        return {"window_size_left": call.window - 1, "window_size_right": 0}
    return {}
