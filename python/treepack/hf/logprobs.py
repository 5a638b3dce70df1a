"""Log-probabilities and entropies of targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from treepack.tree import IGNORE

if TYPE_CHECKING:
    from torch import Tensor


def token_logprobs(
    logits: Tensor, targets: Tensor, *, temperature: float = 1.0, entropy: bool = False
) -> Any:
    """Compute ``log softmax(logits / temperature)[target]`` at each position.

    Args:
        logits: float ``[.., L, vocab]``.
        targets: int64 ``[.., L]``; -100 for no target.
        temperature: greater than 0.
        entropy: whether to compute the entropy of each distribution too.

    Returns:
        Log-probabilities ``[.., L]``, 0 where there is no target; with ``entropy`` also the
        entropies ``[.., L]``.
    """
    scores = logits if logits.element_size() >= 4 else logits.float()
    each = (scores / temperature).log_softmax(-1)
    found = each.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    found = found.masked_fill(targets == IGNORE, 0.0)
    return (found, -(each.exp() * each).sum(-1)) if entropy else found
