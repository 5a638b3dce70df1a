"""What a loss wants to know of logits, and how to compute it where all of them exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from treepack.tree import IGNORE

ELEMENTS = 1 << 24
"""Logits that exist at a time where not all of them do: 64 MiB in float32."""

Op = tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]
"""An elementwise function of logits, and its arguments after them."""


class Wanted(NamedTuple):
    """Which of the numbers of `Found` are to be computed, beside log-probabilities."""

    entropy: bool = False
    mean: bool = False


class Found(NamedTuple):
    """Numbers for each of N distributions over the vocabulary, float32 (float64 of float64).

    Attributes:
        target: log-probability of the target; not defined where there is none.
        entropy: of the distribution, in nats.
        mean: log-probability, averaged over all tokens of the vocabulary alike.
    """

    target: Tensor
    entropy: Tensor | None
    mean: Tensor | None


def apply(ops: Iterable[Op], logits: Tensor) -> Tensor:
    """Do to logits what a model does to them after its head."""
    for func, args, kwargs in ops:
        logits = func(logits, *args, **kwargs)
    return logits


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to sum in: at least single precision."""
    return torch.promote_types(dtype, torch.float32)


def of_logits(logits: Tensor, targets: Tensor, wanted: Wanted) -> Found:
    """What is wanted, by autograd.

    Args:
        logits: float ``[N, vocab]``.
        targets: int64 ``[N]``; -100 for no target.
        wanted: what to compute.
    """
    scores = logits.to(wide(logits.dtype))
    if not any(wanted):
        negative = cross_entropy(scores, targets, reduction="none", ignore_index=IGNORE)
        return Found(-negative, None, None)
    each = scores.log_softmax(-1)
    target = each.gather(-1, targets.clamp(min=0)[:, None])[:, 0]
    entropy = -(each.exp() * each).sum(-1) if wanted.entropy else None
    return Found(target, entropy, each.mean(-1) if wanted.mean else None)
