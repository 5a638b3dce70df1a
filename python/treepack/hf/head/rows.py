"""Log-probabilities by chunks of the hidden states, for heads that are more than one matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from treepack.hf.head.wanted import ELEMENTS, Found, Op, Wanted, apply, of_logits


def by_rows(
    head: Any,
    hidden: Tensor,
    targets: Tensor,
    ops: tuple[Op, ...],
    wanted: Wanted,
    vocabulary: int,
) -> Found:
    """Compute what is wanted by the head's own forward, which runs once more in backward.

    It takes whatever maps each hidden state to logits by itself: LoRA, quantised weights.

    Args:
        head: a module; ``head.forward`` takes float ``[1, n, H]``.
        hidden: float ``[N, H]``.
        targets: int64 ``[N]``; -100 for no target.
        ops: what the model does to the logits of its head, element by element.
        wanted: what to compute.
        vocabulary: size of the vocabulary.

    Example:
        >>> from torch import nn
        >>> head = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 10))
        >>> hidden, targets = torch.randn(2, 4), torch.tensor([3, 7])
        >>> found = by_rows(head, hidden, targets, (), Wanted(), 10)
        >>> plain = head(hidden).log_softmax(-1)[[0, 1], [3, 7]]
        >>> torch.allclose(found.target, plain, atol=1e-5)
        True
    """

    def part(hidden: Tensor, targets: Tensor) -> Found:
        return of_logits(apply(ops, head.forward(hidden[None])[0]), targets, wanted)

    size = max(1, ELEMENTS // vocabulary)
    found = [
        checkpoint(part, *piece, use_reentrant=False) if torch.is_grad_enabled() else part(*piece)
        for piece in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    columns = zip(*found, strict=True)
    return Found(*(None if column[0] is None else torch.cat(column) for column in columns))
