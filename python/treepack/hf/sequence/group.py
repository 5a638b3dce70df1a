"""The ranks that share each row, and how they exchange tokens for heads."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from treepack.errors import AttentionError


class SequenceGroup:
    """Ranks that compute one packed row together.

    It belongs to the process, not to a model: copies of a model share it.

    Attributes:
        group: their process group.
        rank: that of this process in it.
        size: how many they are.
    """

    def __init__(self, group: Any) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise AttentionError(
                "sequence_parallel needs ranks: call torch.distributed.init_process_group first"
            )
        if hasattr(group, "get_coordinate"):
            group = _group_of_mesh(group)
        if not isinstance(group, dist.ProcessGroup):
            raise AttentionError(
                "sequence_parallel must be a process group or a DeviceMesh of one dimension that "
                f"this rank is part of, got {group!r}; pass mesh['sp']"
            )
        self.group: Any = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)

    def __deepcopy__(self, _: Any) -> SequenceGroup:
        return self

    def __repr__(self) -> str:
        return f"SequenceGroup(rank {self.rank} of {self.size})"

    def all_gather(self, x: Tensor) -> list[Tensor]:
        """A tensor of each rank, all of one shape."""
        found = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(found, x.contiguous(), group=self.group)
        return found


def _group_of_mesh(mesh: Any) -> Any:
    if mesh.ndim != 1:
        raise AttentionError(
            f"sequence_parallel got a DeviceMesh of {mesh.ndim} dimensions; pass the one whose "
            "ranks share a row: mesh['sp']"
        )
    return mesh.get_group() if mesh.get_coordinate() is not None else None


class _Exchange(torch.autograd.Function):  # type: ignore[misc]
    """Block ``i`` of rank ``j`` becomes block ``j`` of rank ``i``; its gradient goes back so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _all_to_all(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(grads[0], ctx.group), None


def _all_to_all(x: Tensor, group: Any) -> Tensor:
    x = x.contiguous()
    received = torch.empty_like(x)
    dist.all_to_all_single(received, x, group=group)
    return received


def exchange(x: Tensor, ranks: SequenceGroup) -> Tensor:
    """Send block ``i`` to rank ``i``, and receive one from each; differentiable.

    Args:
        x: ``[W, ...]``, a block for each of the ``W`` ranks.
        ranks: all of them have to call it, with tensors of one shape.

    Returns:
        ``[W, ...]``, a block of each rank.
    """
    found: Tensor = _Exchange.apply(x, ranks.group)
    return found


def to_heads(parts: tuple[Tensor, ...], ranks: SequenceGroup) -> tuple[Tensor, ...]:
    """Give away tokens for heads: some tokens of all heads become all tokens of some heads.

    Args:
        parts: queries, keys and values of this rank's tokens, each ``[S, heads, D]``. Heads that
            ``W`` does not divide are repeated as often as it takes, which keeps them beside the
            queries that read them.
        ranks: ``W`` of them, in the order of their tokens.

    Returns:
        Of each ``[W * S, heads / W, D]``, the tokens in the order of the row.
    """
    parts = tuple(_divisible(x, ranks.size) for x in parts)
    if len({(x.dtype, x.shape[-1]) for x in parts}) > 1:
        return tuple(to_heads((x,), ranks)[0] for x in parts)
    blocks = [x.unflatten(1, (ranks.size, -1)).transpose(0, 1) for x in parts]
    received = exchange(torch.cat(blocks, dim=2), ranks).flatten(0, 1)
    return tuple(received.split([block.shape[2] for block in blocks], dim=1))


def to_tokens(out: Tensor, ranks: SequenceGroup) -> Tensor:
    """Undo `to_heads`: all tokens of some heads become some tokens of all heads.

    Args:
        out: ``[W * S, heads / W, D]``.
        ranks: ``W`` of them.

    Returns:
        ``[S, heads, D]``.
    """
    received = exchange(out.unflatten(0, (ranks.size, -1)), ranks)
    return received.transpose(0, 1).flatten(1, 2)


def _divisible(x: Tensor, size: int) -> Tensor:
    times = math.lcm(x.shape[1], size) // x.shape[1]
    return x if times == 1 else x.repeat_interleave(times, dim=1)
