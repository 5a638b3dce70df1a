"""Log-probabilities of responses, with each prompt and each image computed once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from treepack.errors import BatchError
from treepack.hf.checks import sees_ahead
from treepack.hf.logprobs import token_logprobs
from treepack.hf.model import is_packed
from treepack.options import Bidirectional
from treepack.rl.fold import Folded, fold

if TYPE_CHECKING:
    from torch import Tensor, nn

    from treepack.batch import PackedBatch
    from treepack.families import Family

FOR_THE_LOSS = ("labels", "targets", "loss_weights")
"""What a row has for the model's own loss, which is not computed here."""


class Scores(NamedTuple):
    """Log-probabilities of tokens, and the entropies of what they were chosen from, in nats.

    Attributes:
        logprobs: in the layout of the function that made them.
        entropies: the same, or ``None`` where they were not asked for.
    """

    logprobs: Any
    entropies: Any = None


def logprobs(
    model: nn.Module,
    prompts: Sequence[Any],
    responses: Sequence[Sequence[Any]],
    images: Sequence[Mapping[str, Any] | None] | None = None,
    *,
    family: Family | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
    max_tokens: int | None = None,
) -> Scores:
    """Compute the log-probability of each token of several responses to each of several prompts.

    Prompts are folded into packed rows, so each prompt, each of its images, and what responses of
    one prompt begin with are computed once, forward and backward. The numbers and gradients are
    those of each response alone behind its prompt.

    Args:
        model: prepared by `treepack.hf.prepare`; with ``logits="deferred"`` no ``[L, vocabulary]``
            tensor is held. Its mode is left alone, so dropout is active in training mode.
        prompts: token ids of each prompt, ``[n]``; of images the placeholders that the processor
            writes.
        responses: for each prompt its responses, each token ids ``[n]``. Those of a prompt may be
            of any number and length, also none.
        images: for each prompt what the processor made of its images, such as ``{"pixel_values":
            ..., "image_grid_thw": ...}``, or ``None``; needs ``family``.
        family: of the model, ``treepack.families.find(processor)``.
        temperature: greater than 0; the logits are divided by it.
        entropy: whether to compute the entropies too.
        max_tokens: tokens of a row; by default one row holds everything. Rows are computed one
            after the other, and their graphs kept until ``backward``.

    Returns:
        `Scores`: for each prompt a list with a tensor for each of its responses, ``[n]``, in
        float32 (float64 of a model in float64), differentiable.

    Raises:
        BatchError: as of `treepack.rl.fold`; lists of different lengths, or no response at all; or
            the model is not prepared.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> import treepack as tp
        >>> sizes = dict(hidden_size=8, intermediate_size=8, num_attention_heads=2)
        >>> config = LlamaConfig(vocab_size=16, num_hidden_layers=1, **sizes)
        >>> model = tp.hf.prepare(LlamaForCausalLM(config))
        >>> found = tp.rl.logprobs(model, [[1, 2, 3]], [[[4, 5], [6]]])
        >>> [each.shape for each in found.logprobs[0]]
        [torch.Size([2]), torch.Size([1])]
    """
    for name, given in (("lists of responses", responses), ("images", images)):
        if given is not None and len(given) != len(prompts):
            raise BatchError(f"{len(given)} {name} for {len(prompts)} prompts; pass one for each")
    owner = [n for n, several in enumerate(responses) for _ in several]
    folded = fold(
        [prompts[n] for n in owner],
        list(itertools.chain.from_iterable(responses)),
        media=None if images is None else [images[n] for n in owner],
        family=family,
        max_tokens=max_tokens,
        bidirectional=_sees_ahead(model),
    )
    flat = score(model, folded, temperature=temperature, entropy=entropy)
    counts = [len(several) for several in responses]
    return Scores(*(None if each is None else _nested(each, counts) for each in flat))


def padded_logprobs(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    *,
    media: Sequence[Mapping[str, Any] | None] | None = None,
    family: Family | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
    max_tokens: int | None = None,
) -> Scores:
    """Compute `logprobs` of a padded batch, as trainers for reinforcement learning hold it.

    Args:
        model: as for `logprobs`.
        input_ids: int64 ``[B, P + C]``, each prompt and behind it its response.
        attention_mask: ``[B, P + C]``, 0 on padding.
        logits_to_keep: ``C``, the width of the responses.
        media: for each row of the batch what the processor made of its images, or ``None``.
        family: as for `logprobs`.
        temperature: as for `logprobs`.
        entropy: as for `logprobs`.
        max_tokens: as for `logprobs`.

    Returns:
        `Scores` of ``[B, C]``, on the device of ``input_ids``; 0 on padding.

    Raises:
        BatchError: as of `logprobs`; or arguments of different shapes.

    Source:
        The layout of ``GRPOTrainer`` of TRL: prompts padded on the left, responses on the right.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[0, 1, 2, 5, 6], [3, 1, 2, 7, 0]])
        >>> mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
        >>> found = padded_logprobs(model, ids, mask, 2)  # doctest: +SKIP
        >>> found.logprobs.shape  # doctest: +SKIP
        torch.Size([2, 2])
    """
    if input_ids.shape != attention_mask.shape or not 0 < logits_to_keep < input_ids.shape[1]:
        raise BatchError(
            f"input_ids {list(input_ids.shape)}, attention_mask {list(attention_mask.shape)} and "
            f"{logits_to_keep} logits to keep do not fit: [B, P + C] twice, and C"
        )
    ids, kept = input_ids.cpu(), attention_mask.cpu().bool()
    split = ids.shape[1] - logits_to_keep
    prompts = [row[mask] for row, mask in zip(ids[:, :split], kept[:, :split], strict=True)]
    answers = [row[mask] for row, mask in zip(ids[:, split:], kept[:, split:], strict=True)]
    folded = fold(
        prompts,
        answers,
        media=media,
        family=family,
        max_tokens=max_tokens,
        bidirectional=_sees_ahead(model),
    )
    flat = score(model, folded, temperature=temperature, entropy=entropy)
    mask = attention_mask[:, split:].bool()
    return Scores(*(None if each is None else _padded(each, mask) for each in flat))


def score(
    model: nn.Module, folded: Folded, *, temperature: float = 1.0, entropy: bool = False
) -> Scores:
    """Compute log-probabilities of folded responses; see `logprobs`.

    Args:
        model: as for `logprobs`.
        folded: of `treepack.rl.fold`.
        temperature: as for `logprobs`.
        entropy: as for `logprobs`.

    Returns:
        `Scores`: for each response, in the order of `treepack.rl.fold`, a tensor ``[n]``.

    Raises:
        BatchError: the model is not prepared.
    """
    rows = folded.rows
    found = [score_row(model, row, temperature=temperature, entropy=entropy) for row in rows]
    each = folded.unfold([row.logprobs for row in found])
    if not entropy:
        return Scores(each)
    return Scores(each, folded.unfold([row.entropies for row in found]))


def score_row(
    model: nn.Module, batch: PackedBatch, *, temperature: float = 1.0, entropy: bool = False
) -> Scores:
    """Compute the log-probability of each target of a packed row: what a loss of your own needs.

    The model's own loss is not computed.

    Args:
        model: as for `logprobs`.
        batch: a row of `treepack.PackedDataset` or `treepack.collate`; it is moved to the model.
        temperature: as for `logprobs`.
        entropy: as for `logprobs`.

    Returns:
        `Scores` of ``[L]``, next to ``batch["targets"]`` and ``batch["treepack"].channels``.

    Raises:
        BatchError: the model is not prepared.

    Example:
        >>> import treepack as tp
        >>> scores = tp.rl.score_row(model, batch)  # doctest: +SKIP
        >>> answers = batch["treepack"].sum_by_node(scores.logprobs)  # doctest: +SKIP
    """
    if not is_packed(getattr(model, "module", model)):
        raise BatchError(
            f"{type(model).__name__} is not prepared for packed rows; call tp.hf.prepare(model)"
        )
    weights = next(p for p in model.parameters() if p.is_floating_point())
    moved = batch.to(weights.device, weights.dtype)
    logits = model(**{k: v for k, v in moved.items() if k not in FOR_THE_LOSS}).logits
    targets, places = moved["targets"], moved["logits_to_keep"]
    if logits.shape[-2] != len(places):
        # A model without logits_to_keep in its forward makes all of them.
        logits = logits[..., places, :]
    if not entropy:
        return Scores(token_logprobs(logits, targets, temperature=temperature)[0])
    both = token_logprobs(logits, targets, temperature=temperature, entropy=True)
    return Scores(both[0][0], both[1][0])


def _sees_ahead(model: Any) -> Bidirectional | None:
    config = getattr(model, "module", model).config
    return sees_ahead(config.get_text_config())


def _nested(flat: Sequence[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    found = iter(flat)
    return [list(itertools.islice(found, count)) for count in counts]


def _padded(flat: Sequence[Tensor], mask: Tensor) -> Tensor:
    values = torch.cat(list(flat)).to(mask.device)
    # Scattered as one: rows of the mask are in the order of the responses, each from left to right.
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
