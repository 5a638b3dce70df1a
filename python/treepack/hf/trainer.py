"""``transformers.Trainer`` on packed rows: weights that count the same, and exact resuming."""

from __future__ import annotations

import copy
import json
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from treepack.batch import PackedBatch
from treepack.dataset import PackedDataset
from treepack.errors import AttentionError, BatchError, DatasetError, StateError
from treepack.hf.model import is_packed
from treepack.hf.seen import Seen, log
from treepack.sources.protocol import is_map_style
from treepack.train import gather_state, steps


class PackedTrainer(Trainer):  # type: ignore[misc]
    """A ``Trainer`` whose ``train_dataset`` and ``eval_dataset`` are `PackedDataset`.

    Its steps are those of `treepack.train.steps`: every loss is divided by the ``loss_weights`` of
    all ranks and micro-batches. Training ends after ``max_steps`` or with the data. Checkpoints
    carry the state of the data; ``resume_from_checkpoint`` goes on with the next step, also on
    other numbers of ranks and workers. Settings about batches (sizes, samplers, collators) are not
    used: the budgets of the dataset are the batch size.

    Args:
        model: a model that `prepare` has changed.
        args: ``TrainingArguments`` with ``max_steps``, which may be left out if the packs of
            ``train_dataset`` were made before. They are not modified.
        others: further positional arguments of ``Trainer``.
        options: arguments of ``Trainer`` by name, such as ``train_dataset``.

    Raises:
        AttentionError: the model is not prepared.
        DatasetError: several GPUs in one process, or ``average_tokens_across_devices=False``. When
            training begins: data that is not a `PackedDataset`.
        StateError: when training begins: the checkpoint to resume from has no state of the data.

    Source:
        ``transformers.Trainer``.

    Example:
        >>> import tempfile, treepack as tp
        >>> from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
        >>> sizes = dict(hidden_size=8, intermediate_size=8, num_attention_heads=2)
        >>> config = LlamaConfig(vocab_size=16, num_hidden_layers=1, **sizes)
        >>> model = tp.hf.prepare(LlamaForCausalLM(config))
        >>> data = tp.PackedDataset([tp.MessageTree([1, 2], labels=[1, 2])], budgets={"tokens": 4})
        >>> args = TrainingArguments(tempfile.mkdtemp(), max_steps=2, use_cpu=True)
        >>> trainer = PackedTrainer(model, args, train_dataset=data)
        >>> packs, weight = next(iter(trainer.get_train_dataloader()))
        >>> len(packs), weight
        (1, 1.0)
    """

    callback_handler: Any
    control: Any

    def __init__(self, model: Any = None, args: Any = None, *others: Any, **options: Any) -> None:
        self._seen = Seen()
        self._label_smoothing = getattr(args, "label_smoothing_factor", 0.0)
        args = _own_arguments(args, options.get("train_dataset"))
        super().__init__(model, args, *others, **options)
        if not is_packed(self.model):
            raise AttentionError(
                f"{type(self.model).__name__} is not prepared, so the examples of a packed row "
                "would see each other; call tp.hf.prepare(model) before"
            )
        # Models that say otherwise mean their own loss, not the one that `prepare` sets.
        self.model_accepts_loss_kwargs = True
        if self.args.n_gpu > 1 or not self.args.average_tokens_across_devices:
            raise DatasetError(
                f"got n_gpu={self.args.n_gpu} and average_tokens_across_devices="
                f"{self.args.average_tokens_across_devices}; weights are summed over ranks of one "
                "GPU each: start with torchrun, and leave it True"
            )

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train as ``Trainer`` does; the worker processes of the loader end with the training.

        Raises:
            DatasetError: the data gave no packs.
        """
        self._seen = Seen()
        try:
            return super().train(*arguments, **options)
        finally:
            if self.callback_handler.train_dataloader is not None:
                self.callback_handler.train_dataloader.close()

    def get_train_dataloader(self) -> TrainingSteps:
        """The steps of the training; as they are no ``DataLoader``, nothing shards them again."""
        return TrainingSteps(self)

    def get_batch_samples(self, epoch_iterator: Any, *_: Any) -> tuple[list[PackedBatch], Any]:
        """The packs of a step of this rank, and the weight of the step over all ranks.

        ``Trainer`` passes the weight on as ``num_items_in_batch``. At the end of the data there are
        no packs, and training stops.
        """
        step: tuple[list[PackedBatch], Any] | None = next(epoch_iterator, None)
        if step is None:
            self._seen.check_end(self.state.global_step, self.state.max_steps)
            self.control.should_training_stop = True
            return [], None
        return step

    def training_step(self, model: Any, inputs: PackedBatch, *rest: Any, **options: Any) -> Any:
        """Forward and backward of one pack, which is moved to the device as a whole."""
        self._seen.add(inputs)
        return super().training_step(model, inputs.to(self.args.device), *rest, **options)

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        """The weighted loss of one pack; labels are smoothed as the arguments say.

        Raises:
            BatchError: rejected answers, which this loss would train on as on good ones.
        """
        _reject_preferences(inputs)
        if self._label_smoothing:
            inputs = {**inputs, "label_smoothing": self._label_smoothing}
        return super().compute_loss(model, inputs, *rest, **options)

    def log(self, logs: dict[str, float], *rest: Any, **options: Any) -> None:
        """Log as ``Trainer`` does, with `treepack.train.Statistics` of the packs of this rank.

        They come beside a loss, as ``treepack/fill_tokens``, ``treepack/packing_ratio`` and so on.
        ``train_samples_per_second`` counts examples of this rank.
        """
        self._seen.complete(logs)
        super().log(logs, *rest, **options)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Compute ``{"eval_loss": sum(weight * cross_entropy) / sum(weight)}`` of a dataset.

        Of a dict of datasets, as in ``Trainer``, it computes one loss for each. Every rank reads
        its own shard, and the sums are over all. Predictions are not kept, so ``compute_metrics``
        is not called. The place of the training in its data does not change.

        Raises:
            DatasetError: data that is not a `PackedDataset`, or that gave no packs.
        """
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        prefix = metric_key_prefix
        if isinstance(data, Mapping):
            parts = [self.evaluate(d, ignore_keys, f"{prefix}_{name}") for name, d in data.items()]
            return {name: value for part in parts for name, value in part.items()}
        metrics = {f"{prefix}_loss": self._mean_loss(data)}
        self.log(metrics)
        about = self.args, self.state, self.control
        self.control = self.callback_handler.on_evaluate(*about, metrics)
        return metrics

    def _mean_loss(self, dataset: Any) -> float:
        model, device = self.model_wrapped.eval(), self.args.device
        total, divisor = torch.zeros((), device=device, dtype=torch.float64), 0.0
        for (pack,), weight in steps(self._loader(self._apart(dataset)), end="fill"):
            # Before the training nobody has wrapped the model for mixed precision.
            with torch.no_grad(), self.accelerator.autocast():
                total += self.compute_loss(model, pack.to(device), num_items_in_batch=1.0)
            divisor += weight
        if not divisor:
            raise DatasetError("the evaluation set gave no packs; look at what it skips or drops")
        # The trainer has multiplied each loss by the number of ranks.
        return float(self.accelerator.reduce(total, "mean")) / divisor

    def _apart(self, dataset: Any) -> PackedDataset:
        """A copy from the start of the data, so that evaluating on training data loses no place."""
        packed = _packed(dataset, "eval_dataset")
        if is_map_style(packed.source):
            return packed.at_start()
        return packed.at_start(source=copy.deepcopy(packed.source))

    def _loader(self, dataset: Any) -> DataLoader[PackedBatch]:
        return DataLoader(dataset, None, num_workers=self.args.dataloader_num_workers)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.train_dataset.why_not_resumable is None:
            self.state.stateful_callbacks["treepack"] = json.dumps(gather_state(self.train_dataset))
        super()._save_checkpoint(model, trial)


class TrainingSteps:
    """What a `PackedTrainer` iterates over in place of a loader: whole optimiser steps.

    ``Trainer`` asks for its loader before it reads the checkpoint to resume from, and iterates
    after; so the state of the data is loaded when the iteration begins.

    Args:
        trainer: whose training this is.
    """

    def __init__(self, trainer: PackedTrainer) -> None:
        self.trainer = trainer
        self._iteration: Generator[tuple[list[PackedBatch], float], None, None] | None = None

    def __iter__(self) -> Iterator[tuple[list[PackedBatch], float]]:
        """The packs of each step, and the sum of their loss weights over all ranks.

        The first step raises ``DatasetError`` where the training data is no `PackedDataset`, and
        ``StateError`` where the checkpoint to resume from has no state of the data.
        """
        self._iteration = self._steps()
        return self._iteration

    def close(self) -> None:
        """End the processes of the loader: garbage collection would wait for them."""
        if self._iteration is not None:
            self._iteration.close()

    def _steps(self) -> Generator[tuple[list[PackedBatch], float], None, None]:
        trainer = self.trainer
        data = _packed(trainer.train_dataset, "train_dataset")
        saved, step = trainer.state.stateful_callbacks.get("treepack"), trainer.state.global_step
        if saved is not None:
            data.load_state_dict(json.loads(saved))
        elif step:
            raise StateError(
                f"the checkpoint of step {step} has no state of the data; it was not saved by a "
                "PackedTrainer, or its source cannot go back to a place"
            )
        _tell_topologies(data, trainer.args)
        yield from steps(trainer._loader(data), trainer.args.gradient_accumulation_steps)


def _own_arguments(args: Any, data: Any) -> Any:
    """A copy of the arguments, with what a packed row needs to be otherwise."""
    args = copy.copy(args)
    if args is None:
        return None
    # The state of the data goes on where it was; there is nothing to skip.
    args.ignore_data_skip = True
    # A `Trainer` would smooth with the mean over labels; here it goes into the weighted loss.
    args.label_smoothing_factor = 0.0
    if getattr(args, "include_num_input_tokens_seen", "no") == "non_padding":
        # It counts an attention mask of zeros and ones, which a packed row does not have.
        args.include_num_input_tokens_seen = "all"
    if args.max_steps <= 0:
        args.max_steps = _steps_of(data, args.gradient_accumulation_steps) or args.max_steps
    return args


def _steps_of(data: Any, accumulate: int) -> int | None:
    """Steps that all ranks can make of packs that were made before; ``None`` of others."""
    if not isinstance(data, PackedDataset):
        return None
    world = data.shard[1]
    try:
        # Of all ranks the last one may have a pack less.
        return len(data.at_start(shard=(world - 1, world))) // accumulate
    except TypeError:
        return None


def _tell_topologies(data: PackedDataset, args: Any) -> None:
    """Say now, and not when it is too late, on what a checkpoint can be resumed."""
    saves = str(getattr(args.save_strategy, "value", args.save_strategy)) != "no"
    if not saves or data.virtual_shards is not None or data.why_not_resumable is not None:
        return
    total = data.shard[1] * max(args.dataloader_num_workers, 1)
    log.warning(
        "virtual_shards is not set, so it is %d: checkpoints can be resumed on ranks x workers "
        "that divide %d; set PackedDataset(virtual_shards=24), say, to change them later",
        total,
        total,
    )


BAD = ("rejected", "bad")
"""Roles of answers that no model should learn to give."""


def _reject_preferences(inputs: Any) -> None:
    row = inputs.get("treepack")
    if row is None:
        return
    bad = [role for role in row.roles or () if role in BAD]
    if bad:
        raise BatchError(
            f"the row has {len(bad)} answers that are {' or '.join(sorted(set(bad)))} (keys "
            f"{row.keys!r:.200}), and the loss of PackedTrainer would train on them as on good "
            "ones; override compute_loss with a preference loss (docs/guide/rl.md), or leave them "
            "out of the records"
        )
    if row.channels:
        raise BatchError(
            f"the row has the channels {sorted(row.channels)} (keys {row.keys!r:.200}), which the "
            "loss of PackedTrainer does not read; override compute_loss with a loss that does "
            "(docs/guide/rl.md), or leave them out of the records"
        )


def _packed(dataset: Any, name: str) -> PackedDataset:
    if not isinstance(dataset, PackedDataset):
        raise DatasetError(
            f"{name} must be a PackedDataset, got {type(dataset).__name__}; pass the dataset "
            "itself, not its source or a loader of it"
        )
    return dataset
