"""A model whose ranks share each row: hooks that cut what goes in, on the way to the text model."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from treepack.errors import AttentionError, BatchError
from treepack.hf.checks import text_model
from treepack.hf.sequence.group import SequenceGroup
from treepack.hf.sequence.shard import Shard
from treepack.tree import IGNORE

SHARES = "_treepack_sequence"
"""Attribute of a model with its `Sharing`."""

TOKEN_AXES = {
    "input_ids": 1,
    "inputs_embeds": 1,
    "position_ids": -1,
    "visual_pos_masks": 1,
    "per_layer_inputs": 1,
    "token_type_ids": 1,
    "mm_token_type_ids": 1,
    "moe_mm_token_type_ids": 1,
}
"""Arguments of text models that have an entry for each token, and the axis of it."""

OF_VISUAL_TOKENS = "deepstack_visual_embeds"
"""An argument with an entry for each token that ``visual_pos_masks`` has."""

OF_TARGETS = ("logits_to_keep", "targets", "loss_weights")
"""What a batch has for each target; the model's own hook has cut it already."""

PASSED_ON = frozenset({*OF_TARGETS, "num_items_in_batch"})
"""Arguments of a loss, which go past the text model."""


class Sharing:
    """The hooks by which a model computes its part of each row.

    Args:
        model: of transformers, the whole of it.
        ranks: those that share each row.
    """

    def __init__(self, model: nn.Module, ranks: SequenceGroup) -> None:
        self.ranks = ranks
        decoder = text_model(model)
        # Before all others: what they see of the targets is this rank's part.
        options = {"with_kwargs": True, "prepend": True}
        self._hooks = (
            model.register_forward_pre_hook(_Targets(ranks), **options),
            decoder.register_forward_pre_hook(_Tokens(ranks), **options),
        )

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()


def share(model: nn.Module, ranks: SequenceGroup) -> None:
    """Make a model compute its part of each row that it is given.

    Args:
        model: one that `treepack.hf.sequence.checks.check_shared` has passed.
        ranks: those that share each row.
    """
    setattr(model, SHARES, Sharing(model, ranks))


def unshare(model: nn.Module) -> None:
    """Undo `share`."""
    getattr(model, SHARES).remove()
    delattr(model, SHARES)


def ranks_of(model: Any) -> SequenceGroup | None:
    """The ranks that share each row of a model, ``None`` if it computes its rows alone."""
    sharing = getattr(model, SHARES, None)
    return None if sharing is None else sharing.ranks


class _Targets:
    """Before the model runs: the targets become those of this rank's tokens, the row a shard."""

    def __init__(self, ranks: SequenceGroup) -> None:
        self.ranks = ranks

    def __call__(self, _: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        row = kwargs.get("treepack")
        if row is None:
            # The attention function says what is missing.
            return None
        missing = [n for n in OF_TARGETS if not torch.is_tensor(kwargs.get(n))]
        if missing or not hasattr(getattr(row, "mask", row), "total"):
            raise BatchError(
                f"the batch of a sequence-parallel model has no {missing or 'mask'}: each rank "
                "computes the targets of its own tokens, so pass the PackedBatch whole, as "
                "model(**batch); treepack.rl needs a model without sequence_parallel"
            )
        shard = Shard(row, self.ranks)
        keep, targets, weights = (kwargs[name] for name in OF_TARGETS)
        own_weight = _check_same_row(shard, _tokens_of(args, kwargs), targets, weights)
        given = kwargs.get("num_items_in_batch")
        # Trainers average gradients over all ranks; so the mean over these is the loss of the row.
        divisor = (own_weight if given is None else given) / self.ranks.size
        place = keep - shard.start
        own = ((place >= 0) & (place < shard.length)).nonzero()[:, 0]
        cut = (place[own], targets[..., own], weights[..., own])
        changed = {**dict(zip(OF_TARGETS, cut, strict=True)), "num_items_in_batch": divisor}
        return args, {**kwargs, **changed, "treepack": shard}


class _Tokens:
    """Before the text model runs: whatever has an entry for each token is cut."""

    def __init__(self, ranks: SequenceGroup) -> None:
        self.ranks = ranks

    def __call__(self, decoder: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        shard = kwargs.get("treepack")
        if shard is None:
            return None
        if not isinstance(shard, Shard):
            raise AttentionError(
                f"{type(decoder).__name__} of a sequence-parallel model was called by itself, and "
                "would return the hidden states of a part of the row; call the whole model, or "
                "the text model inside of tp.hf.restore(model): ..."
            )
        names = list(inspect.signature(type(decoder).forward).parameters)[1:]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return (), {name: _cut(decoder, shard, name, given) for name in given}


def _cut(decoder: Any, shard: Shard, name: str, given: dict[str, Any]) -> Any:
    """This rank's part of an argument of the text model."""
    value = given[name]
    if name == OF_VISUAL_TOKENS and value is not None:
        return _cut_visual(shard, value, given["visual_pos_masks"])
    tensors = value if isinstance(value, (list, tuple)) else [value]
    if name in PASSED_ON or not any(map(torch.is_tensor, tensors)):
        return value
    axis = TOKEN_AXES.get(name)
    if axis is None or value.shape[axis] != shard.total:
        shape = [list(x.shape) for x in tensors if torch.is_tensor(x)]
        raise AttentionError(
            f"{type(decoder).__name__} is given {name} of shape {shape} for a row of "
            f"{shard.total} tokens, and sequence_parallel does not know which of it belongs to "
            "which rank; train this model without sequence_parallel"
        )
    return shard.cut(value, axis)


def _cut_visual(shard: Shard, features: list[Tensor], is_visual: Tensor) -> list[Tensor]:
    end = min(shard.start + shard.length, shard.total)
    until = torch.stack([is_visual[..., :n].sum() for n in (min(shard.start, end), end)])
    first, last = until.tolist()
    return [x[first:last] for x in features]


def _tokens_of(args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    ids = kwargs.get("input_ids", args[0] if args else None)
    return ids if torch.is_tensor(ids) else None


def _check_same_row(shard: Shard, ids: Tensor | None, targets: Tensor, weights: Tensor) -> float:
    """The weight of the row, after a look at whether all ranks have the same one.

    Raises:
        BatchError: they do not.
    """
    weight = (weights.double() * (targets != IGNORE)).sum()
    marks = [weight, weight.new_tensor(shard.total), _mark(targets)]
    told = torch.stack([*marks, *([] if ids is None else [_mark(ids)])])
    found = torch.stack(shard.ranks.all_gather(told)).tolist()
    if any(each != found[0] for each in found):
        totals = [int(each[1]) for each in found]
        raise BatchError(
            f"the {shard.ranks.size} ranks of a sequence_parallel group were given different rows "
            f"(tokens: {totals}); all of them need the same one: "
            "PackedDataset(shard=mesh['dp']), the place in the data-parallel ranks alone"
        )
    return float(found[0][0])


def _mark(ids: Tensor) -> Tensor:
    """A number that is another one for almost all other tokens, exact in float64."""
    place = torch.arange(1, ids.numel() + 1, device=ids.device)
    return ((ids.reshape(-1) * place) % 8191).sum().double()
