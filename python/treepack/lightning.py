"""Lightning on packed rows: whole steps with their weight, and checkpoints with the data's state.

Import it as ``treepack.lightning``; it needs ``treepack[lightning]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from treepack._packages import needing

with needing("lightning", __name__):
    from lightning.pytorch import Callback

from treepack.batch import PackedBatch
from treepack.errors import StateError
from treepack.options import EndOfData
from treepack.train import agreed_steps, gather_state, mark_consumed

__all__ = ["PackedSteps"]


class PackedSteps(Callback):
    """The steps of `treepack.train.steps` for a Lightning ``Trainer``, and their place in the data.

    Pass it as a callback, and its `loader` as ``train_dataloaders``. Each batch of
    ``training_step`` is then ``(packs, weight)``: the packs of this rank, and the sum of
    ``loss_weights`` over the packs of all ranks. Lightning reads one step ahead; what counts as
    consumed is what has been trained on, so a checkpoint of any step goes on with the next one,
    also on other numbers of ranks and workers. It has the state of all ranks.

    Args:
        loader: of `PackedBatch`, such as ``DataLoader(dataset, batch_size=None)``.
        accumulate: as for `treepack.train.steps`.
        end: as for `treepack.train.steps`.
        group: as for `treepack.train.steps`.

    Raises:
        DatasetError: as `treepack.train.steps` does, when the training begins.
        StateError: a checkpoint that has no state of the data.

    Source:
        ``lightning.pytorch.Callback``.

    Example:
        >>> import treepack as tp
        >>> from torch.utils.data import DataLoader
        >>> tree = tp.MessageTree([1, 2], labels=[1, 2])
        >>> dataset = tp.PackedDataset([tree] * 4, budgets={"tokens": 4})
        >>> data = PackedSteps(DataLoader(dataset, batch_size=None), accumulate=2)
        >>> [(len(packs), weight) for packs, weight in data.loader]
        [(2, 4.0)]
        >>> data.state_dict().keys()  # in a Trainer: callbacks=[data], fit(module, data.loader)
        dict_keys(['data'])
    """

    def __init__(
        self, loader: Any, accumulate: int = 1, end: EndOfData = "stop", group: Any = None
    ) -> None:
        self.loader: Loader = Loader(loader, accumulate, end, group)
        self._dataset = getattr(loader, "dataset", loader)
        self._group = group

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Count the packs of a step as consumed; checkpoints are saved after this."""
        self.loader.finish_step()

    def state_dict(self) -> dict[str, Any]:
        """The state of the data of all ranks, each of which calls it; empty if it has none."""
        if self._dataset.why_not_resumable is not None:
            return {}
        return {"data": gather_state(self._dataset, self._group)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was; Lightning calls it before the data is read.

        Raises:
            StateError: there is no state of the data.
        """
        if "data" not in state_dict:
            raise StateError(
                "the checkpoint has no state of the data: its source could not go back to a place"
            )
        self._dataset.load_state_dict(state_dict["data"])


class Loader:
    """What Lightning iterates over in place of a loader: whole optimiser steps.

    Args:
        loader: of `PackedBatch`.
        accumulate: packs of each rank in a step.
        end: ``"stop"`` or ``"fill"``.
        group: process group of the ranks.
    """

    def __init__(self, loader: Any, accumulate: int, end: EndOfData, group: Any) -> None:
        self._loader = loader
        self._options = accumulate, end, group
        # The packs of steps that have been handed out and not been trained on, the oldest first.
        self._open: list[list[PackedBatch]] = []

    def __iter__(self) -> Iterator[tuple[list[PackedBatch], float]]:
        self._open, skipped = [], []
        for step in agreed_steps(self._loader, *self._options):
            # Without their tensors: all that is read of them is their state.
            skipped += [PackedBatch(treepack=pack["treepack"]) for pack in step.taken]
            if step.weight > 0:
                self._open.append(skipped)
                skipped = []
                yield step.packs, step.weight

    def finish_step(self) -> None:
        """Count the packs of the oldest open step, and those skipped before it, as consumed."""
        mark_consumed(self._loader, self._open.pop(0))
