"""TRL's GRPO on message trees: each prompt, and each image of it, is computed once for a group."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from treepack._packages import needing
from treepack.errors import BatchError
from treepack.hf.model import is_packed, prepare, restore
from treepack.rl.logprobs import padded_logprobs
from treepack.rl.trl_media import KNOWN, media_by_sample

with needing("rl", "treepack.rl.GRPOTrainer"):
    import trl
    from trl.trainer.utils import (
        split_pixel_values_by_grid,
        split_tensor_dict,
        unsplit_pixel_values_by_grid,
    )

ASKED = (
    "self",
    "model",
    "input_ids",
    "attention_mask",
    "logits_to_keep",
    "batch_size",
    "compute_entropy",
    "compute_aux_loss",
    *KNOWN,
)
"""Parameters of TRL's function for log-probabilities that are known here."""

USED = ("_generate_single_turn", "_generate_and_score_completions", "_prepare_inputs")


if TYPE_CHECKING:
    from trl import GRPOTrainer as Trainer
else:
    Trainer = object


class TreeGRPO(Trainer):
    """What makes a ``GRPOTrainer`` of TRL compute log-probabilities on message trees.

    It stands before TRL's class: ``class MyTrainer(TreeGRPO, trl.GRPOTrainer)``. Rewards,
    advantages, loss, generation and logs are TRL's; policy, old policy and reference model compute
    their log-probabilities on packed rows.

    Args:
        args: as TRL's.
        kwargs: as TRL's.
    """

    _buffered_inputs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _check_version(type(self))
        super().__init__(*args, **kwargs)
        self._check_settings()
        self._family = _family_of(self.processing_class)
        for model in (self.model, self.ref_model):
            if model is not None:
                prepare(self.accelerator.unwrap_model(model), logits="deferred")

    def _check_settings(self) -> None:
        size, group = self.args.per_device_train_batch_size, self.num_generations
        if size % group:
            raise BatchError(
                f"per_device_train_batch_size is {size} and num_generations {group}: a group would "
                "be split over batches or ranks, and its prompt computed in each; make the first a "
                "multiple of the second"
            )
        if self.aux_loss_enabled:
            raise BatchError(
                "router_aux_loss_coef is not 0: the balancing loss of experts counts each prompt "
                "once here and once for each response in TRL; set it to 0"
            )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **media: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        if compute_aux_loss:
            raise BatchError("the balancing loss of experts is not computed on message trees")
        prompts = attention_mask[:, :-logits_to_keep].bool()
        with self.accelerator.autocast():
            found = padded_logprobs(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                media=media_by_sample(media, prompts),
                family=self._family,
                temperature=self.temperature,
                entropy=compute_entropy,
                # As many tokens as TRL would hold at once.
                max_tokens=batch_size and batch_size * input_ids.shape[1],
            )
        return found.logprobs, found.entropies, None

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        with restore(model) if is_packed(model) else nullcontext():
            return super()._generate_single_turn(*args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL's, but that groups are shuffled and not samples, so that they stay together."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        slices = self.args.steps_per_generation
        if self._step % (slices * self.num_iterations) == 0 or self._buffered_inputs is None:
            scored = self._generate_and_score_completions(generation_batch)
            shuffled = shuffle_groups(split_pixel_values_by_grid(scored), self.num_generations)
            parts = split_tensor_dict(shuffled, slices)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(part) for part in parts]
        return self._buffered_inputs[self._step % slices]


def shuffle_groups(samples: dict[str, Any], size: int) -> dict[str, Any]:
    """Shuffle samples by group; those of a group stay together, in their order.

    Args:
        samples: by name a tensor or list with an entry for each sample, a tensor without an axis,
            or ``None``.
        size: samples of a group, which stand one behind the other.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> shuffle_groups({"x": torch.arange(6), "n": None}, 2)
        {'x': tensor([4, 5, 0, 1, 2, 3]), 'n': None}
    """
    count = len(next(v for v in samples.values() if v is not None and not _is_scalar(v)))
    order = torch.randperm(count // size)[:, None] * size + torch.arange(size)
    order = order.reshape(-1)

    def moved(value: Any) -> Any:
        if value is None or _is_scalar(value):
            return value
        return value[order] if isinstance(value, torch.Tensor) else [value[n] for n in order]

    return {name: moved(value) for name, value in samples.items()}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 0


def _family_of(processor: Any) -> Any:
    """The family of a processor with images; text needs none."""
    from treepack.families import find

    return find(processor) if hasattr(processor, "image_processor") else None


def _check_version(kind: type) -> None:
    """Reject a version of TRL that calls what is replaced here in another way."""
    theirs = next((each for each in kind.__mro__ if each.__module__.startswith("trl.")), kind)
    missing = [name for name in USED if not hasattr(theirs, name)]
    ask = getattr(theirs, "_get_per_token_logps_and_entropies", None)
    names = inspect.signature(ask).parameters if ask else {"it": None}
    changed = sorted(set(names) - set(ASKED))
    if missing or changed:
        raise BatchError(
            f"TRL {trl.__version__} is not supported: its GRPOTrainer "
            + (f"has no {missing}" if missing else f"passes {changed} to the log-probabilities")
            + "; this trainer was written for TRL 1.16"
        )


class GRPOTrainer(TreeGRPO, trl.GRPOTrainer):
    """TRL's ``GRPOTrainer``, in which each prompt and each of its images is computed once.

    Arguments, rewards, losses, generation and logs are TRL's. The model, and the reference model,
    are set up by `treepack.hf.prepare` with deferred logits, which take the place of TRL's own
    fused head. Samples are shuffled by group, so that each group stays in one micro-batch.

    Args:
        args: as TRL's.
        kwargs: as TRL's.

    Raises:
        BatchError: ``per_device_train_batch_size`` is no multiple of ``num_generations``; a
            balancing loss of experts; or a version of TRL that works otherwise.
        AttentionError: the model cannot be prepared.

    Source:
        TRL 1.16, ``GRPOTrainer``; GRPO: DeepSeekMath, arXiv 2402.03300.

    Example:
        >>> import treepack as tp
        >>> trainer = tp.rl.GRPOTrainer(  # doctest: +SKIP
        ...     model, reward_funcs, args, train_dataset=dataset, processing_class=processor
        ... )
        >>> trainer.train()  # doctest: +SKIP
    """
