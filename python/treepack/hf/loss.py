"""Cross-entropy over (position, target, weight), and the weights that Molmo2 trains with."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from treepack.errors import BatchError
from treepack.tree import IGNORE, MessageTree

if TYPE_CHECKING:
    import torch


def weighted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor | None = None,
    vocab_size: int | None = None,
    loss_weights: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | float | None = None,
    label_smoothing: float = 0.0,
    **kwargs: Any,
) -> torch.Tensor:
    """Compute ``sum(weight * cross_entropy) / sum(weight)`` over the targets of a packed row.

    `treepack.hf.prepare` installs it as ``model.loss_function``; ``model(**batch)`` then calls it
    with the logits of ``logits_to_keep`` alone.

    Args:
        logits: float ``[1, L, vocab]``; those that predict each target, in any float dtype, or
            deferred.
        labels: not used; the targets are aligned already and arrive as ``targets``.
        vocab_size: not used; the last axis of ``logits`` has this size.
        loss_weights: float ``[1, L]``, of 0 or more. FSDP2 rounds them with everything else that
            enters a model unless its ``MixedPrecisionPolicy`` has ``cast_forward_inputs=False``.
        targets: int64 ``[1, L]`` target tokens; -100 carries no loss.
        num_items_in_batch: divisor instead of the row's own sum of weights: the sum over all ranks
            and micro-batches of a step, so that every weight counts the same.
        label_smoothing: share of each target that goes to all tokens alike, in [0, 1].
        kwargs: not used; whatever else the model passes on.

    Returns:
        A scalar in float32 (float64 for float64 logits); 0 with zero gradients for a row without
        weights.

    Raises:
        BatchError: the batch lost its weights or targets on the way, or the logits are not those of
            ``logits_to_keep``.

    Source:
        Molmo2, arXiv 2601.10611: the loss is divided by the weights of all ranks.

    Example:
        >>> import torch
        >>> logits, targets = torch.zeros(1, 2, 4), torch.tensor([[1, 3]])
        >>> weights = torch.tensor([[1.0, 3.0]])
        >>> round(weighted_loss(logits, loss_weights=weights, targets=targets).item(), 4)
        1.3863
    """
    import torch

    if loss_weights is None or targets is None:
        lost = "loss_weights" if loss_weights is None else "targets"
        is_plain = torch.is_tensor(labels) and targets is None
        plain = " with plain labels," if is_plain else ""
        raise BatchError(
            f"the batch reached the loss{plain} without {lost!r}, but the model was prepared for "
            "packed batches; pass the PackedBatch whole, as model(**batch) (in a Trainer: "
            "remove_unused_columns=False), or leave packing for the loss of plain labels: "
            "with tp.hf.restore(model): ..."
        )
    if logits.shape[-2] != targets.numel():
        raise BatchError(
            f"{logits.shape[-2]} logits for {targets.numel()} targets; "
            "the batch lost 'logits_to_keep', pass it whole as model(**batch)"
        )
    each = _cross_entropies(logits, targets.reshape(-1), label_smoothing)
    targets = targets.reshape(-1).to(each.device)
    weights = loss_weights.reshape(-1).to(each.device, each.dtype)
    weights = weights * (targets != IGNORE)
    divisor = weights.sum() if num_items_in_batch is None else num_items_in_batch
    return (each * weights).sum() / (divisor + (divisor == 0))


def _cross_entropies(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Of each of the targets ``[L]``; any value where there is none."""
    from torch.nn.functional import cross_entropy

    from treepack.hf.head.deferred import DeferredLogits
    from treepack.hf.logprobs import find

    if isinstance(logits, DeferredLogits):
        found = find(logits, targets.view(logits.shape[:-1]), mean=label_smoothing != 0.0)
        each = -found.target.flatten()
        if found.mean is None:
            return each
        return (1 - label_smoothing) * each - label_smoothing * found.mean.flatten()
    scores = logits.reshape(-1, logits.shape[-1])
    scores = scores if scores.element_size() >= 4 else scores.float()
    return cross_entropy(
        scores,
        targets.to(scores.device),
        reduction="none",
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
    )


def weighted_loss_of_row(
    logits: torch.Tensor, logits_to_keep: torch.Tensor | None = None, **kwargs: Any
) -> torch.Tensor:
    """Compute `weighted_loss` of a model that has no ``logits_to_keep`` and makes all logits.

    `treepack.hf.prepare` installs it where the model's forward does not know that argument and
    passes it on to the loss.

    Args:
        logits: float ``[1, total, vocab]``.
        logits_to_keep: int64 ``[L]``, row positions that predict each target.
        kwargs: those of `weighted_loss`.

    Returns:
        A scalar, as of `weighted_loss`.

    Raises:
        BatchError: as of `weighted_loss`.

    Example:
        >>> import torch
        >>> logits, targets = torch.zeros(1, 5, 4), torch.tensor([[1, 3]])
        >>> keep, weights = torch.tensor([1, 1]), torch.ones(1, 2)
        >>> loss = weighted_loss_of_row(logits, keep, loss_weights=weights, targets=targets)
        >>> round(loss.item(), 4)
        1.3863
    """
    if logits_to_keep is not None:
        logits = logits[..., logits_to_keep, :]
    return weighted_loss(logits, **kwargs)


def molmo2_weights(tree: MessageTree, scale: float = 2.0) -> MessageTree:
    """Weigh each branch as Molmo2 does: ``scale / sqrt(loss tokens) / sqrt(branches)``.

    Long answers and images with many annotations count more than one short answer, but not in
    proportion. The weights of the tree are multiplied, so a constant weight per task stays.

    Args:
        tree: one example. It is not modified; tokens and media are shared with the result.
        scale: factor of all weights, 2 in Molmo2.

    Returns:
        The tree with new weights. Loss tokens are labels that are not -100; the end target counts
        only for an example of a single branch, as in Molmo2's own code.

    Source:
        Molmo2, arXiv 2601.10611, section on training.

    Example:
        >>> branch = MessageTree([5, 6, 7, 8], labels=[5, 6, 7, 8])
        >>> molmo2_weights(MessageTree([1], children=[branch] * 4)).children[0].weight
        0.5
    """
    branches = sum(1 for node, _ in tree.nodes() if not node.children)
    return _reweigh(tree, scale / math.sqrt(branches), branches == 1)


def _reweigh(node: MessageTree, scale: float, counts_end: bool) -> MessageTree:
    tokens = 0 if node.labels is None else int(np.count_nonzero(node.labels != IGNORE))
    tokens += counts_end and node.end_target is not None
    changed = copy.copy(node)
    changed.weight = node.weight * (scale / math.sqrt(max(tokens, 1)))
    if isinstance(changed.weight, np.ndarray):
        changed.weight = changed.weight.astype(np.float32)
    changed.children = tuple(_reweigh(child, scale, counts_end) for child in node.children)
    return changed
