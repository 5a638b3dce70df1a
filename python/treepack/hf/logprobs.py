"""Log-probabilities and entropies of targets, from logits or from those that are deferred."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from treepack.errors import BatchError
from treepack.tree import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

    from treepack.hf.head.wanted import Found


@overload
def token_logprobs(
    logits: Tensor, targets: Tensor, *, temperature: float = ..., entropy: Literal[False] = ...
) -> Tensor: ...


@overload
def token_logprobs(
    logits: Tensor, targets: Tensor, *, temperature: float = ..., entropy: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def token_logprobs(
    logits: Tensor, targets: Tensor, *, temperature: float = 1.0, entropy: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute ``log softmax(logits / temperature)[target]`` at each position.

    With a model that was prepared with ``logits="deferred"``, the logits of all positions never
    exist at once: memory is that of the head's gradient and of a few slices.

    Args:
        logits: float ``[.., L, vocab]``, ``out.logits`` of a model. In a packed row they are those
            of ``logits_to_keep``, one for each target.
        targets: int64 ``[.., L]``; -100 for no target.
        temperature: greater than 0; by which the logits are divided.
        entropy: whether to compute the entropy of each distribution too.

    Returns:
        Log-probabilities ``[.., L]`` in nats, 0 without a gradient where there is no target; with
        ``entropy`` also the entropies ``[.., L]``, of all positions. Both float32 (float64 of
        float64 logits) and differentiable, once where logits are deferred.

    Raises:
        BatchError: another number of targets than of logits, a target that is not in the
            vocabulary, or a temperature that is not greater than 0.
        AttentionError: the logits are deferred and can no longer be computed: the weights of the
            head have changed since, or are sharded (FSDP) outside of its forward.

    Example:
        >>> import torch
        >>> logits, targets = torch.zeros(1, 3, 4), torch.tensor([[1, 3, -100]])
        >>> found, entropies = token_logprobs(logits, targets, entropy=True)
        >>> found, entropies
        (tensor([[-1.3863, -1.3863, 0.0000]]), tensor([[1.3863, 1.3863, 1.3863]]))
    """
    found = find(logits, targets, temperature=temperature, entropy=entropy)
    return found.target if found.entropy is None else (found.target, found.entropy)


def find(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    mean: bool = False,
) -> Found:
    """What `token_logprobs` computes, and the log-probability averaged over the vocabulary.

    Args:
        logits: as there.
        targets: as there.
        temperature: as there.
        entropy: as there.
        mean: whether to compute that average, which smoothed labels need.
    """
    from treepack.hf.head.deferred import DeferredLogits
    from treepack.hf.head.wanted import Found, Wanted, of_logits

    _check(logits, targets, temperature)
    shape, wanted = targets.shape, Wanted(entropy, mean)
    flat = targets.reshape(-1).to(logits.device)
    _check_range(flat, logits.shape[-1])
    if isinstance(logits, DeferredLogits) and not logits.is_computed:
        found = logits.find(flat, wanted, temperature)
    else:
        scores = logits.reshape(-1, logits.shape[-1])
        found = of_logits(scores if temperature == 1.0 else scores / temperature, flat, wanted)
    target = found.target.masked_fill(flat == IGNORE, 0.0)
    return Found(*(None if x is None else x.view(shape) for x in (target, *found[1:])))


def _check(logits: Tensor, targets: Tensor, temperature: float) -> None:
    if logits.shape[:-1] != targets.shape:
        raise BatchError(
            f"logits {list(logits.shape)} for targets {list(targets.shape)}; there must be one "
            "target for each position: [.., L, vocabulary] and [.., L]"
        )
    if not temperature > 0:
        raise BatchError(f"temperature is {temperature}; it must be greater than 0")


def _check_range(targets: Tensor, vocabulary: int) -> None:
    """On a GPU without waiting for it."""
    import torch

    if torch.compiler.is_compiling():
        return
    known = ((targets >= 0) & (targets < vocabulary)) | (targets == IGNORE)
    if targets.device.type != "cpu":
        torch._assert_async(known.all())
    elif not known.all():
        raise BatchError(
            f"target {int(targets[~known][0])} is not in the vocabulary of {vocabulary} tokens; "
            "look at the tokenizer of the data and at the head of the model"
        )
