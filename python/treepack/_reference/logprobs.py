"""Log-probabilities position by position: the reference of ``token_logprobs``."""

from __future__ import annotations

import torch
from torch import Tensor


def token_statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log-probability of the target, entropy and mean log-probability at each position.

    Args:
        logits: float ``[L, vocab]``.
        targets: int64 ``[L]``; of what is negative the log-probability is 0.

    Returns:
        Three times ``[L]``, differentiable by autograd.

    Example:
        >>> import torch
        >>> token_statistics(torch.zeros(1, 4), torch.tensor([2]))
        (tensor([-1.3863]), tensor([1.3863]), tensor([-1.3863]))
    """
    found = logits[:0, :1].expand(0, 3)
    for y, target in zip(logits, targets.tolist(), strict=True):
        high = y.max().detach()
        each = y - high - (y - high).exp().sum().log()
        picked = each[target] if target >= 0 else 0 * y[0]
        row = torch.stack([picked, -(each.exp() * each).sum(), each.mean()])
        found = torch.cat([found, row[None]])
    return found[:, 0], found[:, 1], found[:, 2]
