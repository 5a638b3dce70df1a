"""Two partial attention results merged by one Triton kernel: two reads and one write a token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from treepack.attention.plan import Tokens

BLOCK_TOKENS = 32


def merge_(
    out: torch.Tensor, lse: torch.Tensor, tokens: Tokens, part: torch.Tensor, part_lse: torch.Tensor
) -> None:
    """Merge in place, as `treepack.attention.merge.merge_` does.

    Args:
        out: contiguous ``[T, H, D]``.
        lse: contiguous ``[H, T]``, float32 or float64.
        tokens: a slice or int32 ``[n]``, none twice.
        part: ``[n, H, D]`` in the dtype of ``out``.
        part_lse: ``[H, n]`` in the dtype of ``lse``.
    """
    n, heads, size = part.shape
    if not n:
        return
    is_gathered = not isinstance(tokens, slice)
    part, part_lse = part.contiguous(), part_lse.contiguous()
    _merge[(triton.cdiv(n, BLOCK_TOKENS), heads)](
        out,
        lse,
        part,
        part_lse,
        tokens if is_gathered else part_lse,
        0 if is_gathered else tokens.start,
        n,
        lse.shape[1],
        HEADS=heads,
        SIZE=size,
        SIZE_2=triton.next_power_of_2(size),
        BLOCK_TOKENS=BLOCK_TOKENS,
        IS_GATHERED=is_gathered,
    )


# One compiled kernel for all lengths: by default each new divisor of one is another kernel.
@triton.jit(
    do_not_specialize=["first_token", "n", "total"], do_not_specialize_on_alignment=["index"]
)
def _merge(
    out,
    lse,
    part,
    part_lse,
    index,
    first_token,
    n,
    total,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_2: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    IS_GATHERED: tl.constexpr,
):
    head = tl.program_id(1)
    i = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    inside = i < n
    if IS_GATHERED:
        token = tl.load(index + i, mask=inside, other=0)
    else:
        token = first_token + i
    # A token may lie beyond 2^31 elements of a long row with many heads.
    token = token.to(tl.int64)

    nothing = -float("inf")
    seen = tl.load(lse + head * total + token, mask=inside, other=nothing)
    more = tl.load(part_lse + head * n + i, mask=inside, other=nothing)
    # "No keys" is written as either infinity.
    seen = tl.where(tl.abs(seen) == float("inf"), nothing, seen)
    more = tl.where(tl.abs(more) == float("inf"), nothing, more)
    top = tl.maximum(seen, more)
    base = tl.where(top == nothing, 0.0, top)
    seen_weight = tl.exp(seen - base)
    more_weight = tl.exp(more - base)
    sum_weight = seen_weight + more_weight
    is_empty = sum_weight == 0.0
    divisor = tl.where(is_empty, 1.0, sum_weight)
    merged = tl.where(is_empty, float("inf"), base + tl.log(divisor))

    d = tl.arange(0, SIZE_2)
    here = inside[:, None] & (d < SIZE)[None, :]
    at = ((token * HEADS + head) * SIZE)[:, None] + d[None, :]
    from_part = ((i.to(tl.int64) * HEADS + head) * SIZE)[:, None] + d[None, :]
    old = tl.load(out + at, mask=here, other=0.0).to(seen.dtype)
    new = tl.load(part + from_part, mask=here, other=0.0).to(seen.dtype)
    both = old * (seen_weight / divisor)[:, None] + new * (more_weight / divisor)[:, None]
    # Several warps load the same tokens of lse: none may find there what another has stored.
    tl.debug_barrier()
    tl.store(lse + head * total + token, merged, mask=inside)
    tl.store(out + at, both.to(out.dtype.element_ty), mask=here)
