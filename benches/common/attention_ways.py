"""Ways to compute attention over a packed row: tree attention, and what stock torch offers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
import treepack as tp
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from treepack.attention import TreePlan, implementations
from treepack.batch import PackedRow

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Way(NamedTuple):
    """One way to compute attention over a row.

    Attributes:
        attend: from q, k, v of the row to one output for each of ``tokens``.
        tokens: row positions that the outputs belong to; ``None`` where it computes something else.
        has_backward: whether gradients can be had.
        flash: which FlashAttention torch runs meanwhile, ``None`` for its own.
    """

    attend: Attend
    tokens: Tensor | None
    has_backward: bool = True
    flash: str | None = None


def by_trees(mask: tp.TreeMask, device: torch.device, backend: str | None = None) -> Way:
    """Ours."""
    if backend == "flex":
        row = PackedRow(mask, TreePlan.from_mask(mask)).to(device)
        row.blocks_for()
        attend = torch.compile(functools.partial(tp.tree_attention, backend=backend))
        return Way(lambda q, k, v: attend(q, k, v, row), _used(mask, device))
    plan = TreePlan.from_mask(mask).to(device)
    attend = functools.partial(tp.tree_attention, backend=backend)
    flash = str(backend).upper() if str(backend).upper() in implementations.PACKAGES else None
    return Way(lambda q, k, v: attend(q, k, v, plan)[: mask.used], _used(mask, device), flash=flash)


def by_dense_mask(mask: tp.TreeMask, device: torch.device) -> Way:
    """One call with the mask written out; Molmo2 adds it as a bias, in the model's dtype."""
    visible = torch.from_numpy(mask.to_dense()).to(device)
    visible.fill_diagonal_(fill_value=True)
    if device.type == "cuda":
        visible = torch.zeros_like(visible, dtype=torch.bfloat16).masked_fill_(~visible, -math.inf)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return sdpa(q, k, v, attn_mask=visible, enable_gqa=True)[0].transpose(0, 1)

    return Way(attend, torch.arange(mask.total, device=device))


def by_gathered_keys(mask: tp.TreeMask, device: torch.device) -> Way:
    """Each node's queries, and a copy of its path's keys: one bottom-right causal varlen call.

    On a CPU, which has no such call, one masked call for each node.
    """
    nodes = np.flatnonzero(mask.node_end > mask.node_start)
    lengths = (mask.node_end - mask.node_start)[nodes].tolist()
    paths = [_path(mask, node) for node in nodes]
    index = torch.cat(paths).to(device)
    attend = _in_one_call if device.type == "cuda" else _node_by_node
    return Way(attend(lengths, [len(path) for path in paths], index), _used(mask, device))


def _in_one_call(lengths: list[int], path_lengths: list[int], index: Tensor) -> Attend:
    from torch.nn.attention.varlen import varlen_attn

    cu_q, cu_k = (
        torch.tensor([0, *accumulate(x)], dtype=torch.int32, device=index.device)
        for x in (lengths, path_lengths)
    )
    most = max(lengths), max(path_lengths)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = (x[index] for x in (k, v))
        causal = {"window_size": (-1, 0), "enable_gqa": True}
        return varlen_attn(q[: sum(lengths)], *keys, cu_q, cu_k, *most, **causal)

    return attend


def _node_by_node(lengths: list[int], path_lengths: list[int], index: Tensor) -> Attend:
    below = [
        torch.ones(n, path).tril(path - n).bool()
        for n, path in zip(lengths, path_lengths, strict=True)
    ]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = (
            q[: sum(lengths)].split(lengths),
            *(x[index].split(path_lengths) for x in (k, v)),
        )
        pieces = (
            sdpa(*(x.transpose(0, 1)[None] for x in part), attn_mask=seen, enable_gqa=True)[0]
            for *part, seen in zip(*parts, below, strict=True)
        )
        return torch.cat([piece.transpose(0, 1) for piece in pieces])

    return attend


def by_padded_paths(mask: tp.TreeMask, device: torch.device) -> Way:
    """Every path a sequence of its own, padded to the longest: what trains without packing."""
    paths = [_path(mask, leaf) for leaf in np.flatnonzero(mask.subtree_end == mask.node_end)]
    longest = max(map(len, paths))
    index = torch.stack([torch.cat([p, p.new_zeros(longest - len(p))]) for p in paths]).to(device)
    lengths = torch.tensor([len(path) for path in paths])
    real = (torch.arange(longest) < lengths[:, None]).to(device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x[index].transpose(1, 2) for x in (q, k, v))
        return sdpa(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)[real]

    return Way(attend, index[real])


def by_equal_pairs(mask: tp.TreeMask, _: torch.device) -> Way:
    """No tree: one causal sequence with as many pairs, which is as good as it can get."""
    length = math.isqrt(2 * mask.area)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        repeats = -(-length // len(q))
        q, k, v = (x.repeat(repeats, 1, 1)[:length].transpose(0, 1)[None] for x in (q, k, v))
        return sdpa(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)

    return Way(attend, None)


def by_flex(mask: tp.TreeMask, device: torch.device) -> Way:
    """FlexAttention with the block mask that torch finds."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    from treepack.attention.flex import make_blocks

    visible = make_blocks(mask, device).mask.mask_mod
    blocks = create_block_mask(visible, None, None, mask.total, mask.total, device=device)
    compiled = torch.compile(flex_attention)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return compiled(q, k, v, block_mask=blocks, enable_gqa=True)[0].transpose(0, 1)

    return Way(attend, torch.arange(mask.total, device=device), device.type == "cuda")


def _used(mask: tp.TreeMask, device: torch.device) -> Tensor:
    return torch.arange(mask.used, device=device)


def _path(mask: tp.TreeMask, node: int) -> Tensor:
    """Row positions from the root to the end of a node."""
    pieces = []
    while node >= 0:
        pieces.append(torch.arange(int(mask.node_start[node]), int(mask.node_end[node])))
        node = int(mask.node_parent[node])
    return torch.cat(pieces[::-1])


def ways_for(mask: tp.TreeMask, device: torch.device, flex: bool) -> dict[str, Callable[[], Way]]:
    """What there is on this device for this mask, ours first."""
    is_gpu = device.type == "cuda"
    ours = [None, *(name.lower() for name in implementations.PACKAGES)] if is_gpu else [None]
    makers: dict[str, Callable[..., Way]] = {
        f"tree attention, {backend or device.type}": functools.partial(by_trees, backend=backend)
        for backend in [*ours, *(["flex"] if is_gpu else [])]
    }
    makers["dense mask, sdpa"] = by_dense_mask
    if mask.bidirectional == "none":
        makers["keys gathered for each path"] = by_gathered_keys
        makers["each path alone, padded"] = by_padded_paths
    makers["plain causal, as many pairs"] = by_equal_pairs
    if flex:
        makers["flex, create_block_mask"] = by_flex
    return {name: functools.partial(maker, mask, device) for name, maker in makers.items()}
