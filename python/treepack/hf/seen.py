"""What a training has seen: the statistics of its packs, and whether the data lasted."""

from __future__ import annotations

import logging

from treepack.batch import PackedBatch
from treepack.batch.statistics import Statistics
from treepack.errors import DatasetError

log: logging.Logger = logging.getLogger("treepack")

RATE = "train_samples_per_second"


class Seen:
    """Counts the packs of one rank during one training."""

    def __init__(self) -> None:
        self._examples = 0.0
        self._statistics = Statistics()

    def add(self, pack: PackedBatch) -> None:
        """Count a pack."""
        self._examples += pack["treepack"].stats.get("examples", 0.0)
        self._statistics.add(pack)

    def complete(self, logs: dict[str, float]) -> None:
        """Add to what a trainer logs: statistics beside a loss, examples, not rows, at the end."""
        if RATE in logs and logs.get("train_runtime"):
            logs[RATE] = round(self._examples / logs["train_runtime"], 3)
        if "loss" in logs:
            logs.update(self._statistics.report())

    def check_end(self, step: int, max_steps: int) -> None:
        """Tell that the data ended before the training.

        Raises:
            DatasetError: there was none.
        """
        if not self._examples:
            raise DatasetError(
                f"the training data gave no packs (at step {step}): it is empty, all of it was "
                "skipped or dropped, or the state that was loaded is that of its end"
            )
        if step < max_steps:
            log.warning(
                "the data ended after %d of %d steps, and the learning rate was scheduled for all: "
                "set max_steps=%d, or epochs=None for a stream without end",
                step,
                max_steps,
                step,
            )
