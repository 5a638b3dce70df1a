"""The same pieces, measured by Ray Data on the machines of a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from treepack import errors
from treepack._packages import needing
from treepack.errors import TreepackError
from treepack.measuring.measurer import Measurer, Piece, Task
from treepack.sources.costs.branches import Branches, Lengths
from treepack.sources.costs.table import UNKNOWN

NO_LENGTHS: Lengths = ([], None, None)


class MeasureBatch:
    """What an actor does with a batch of indices.

    Args:
        task: which examples, and how.
    """

    def __init__(self, task: Task) -> None:
        self.measurer: Measurer = Measurer(task)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Costs of the examples whose indices stand in the column ``id``."""
        pieces, told = zip(*map(self._measure, batch["id"].tolist()), strict=True)
        columns = self.measurer.task.columns
        return {
            "id": batch["id"],
            **{name: np.concatenate([p.columns[name] for p in pieces]) for name in columns},
            # Arrow would make a column of null of a batch without an error.
            "told": np.array(told),
        }

    def _measure(self, index: int) -> tuple[Piece, str]:
        """The costs of an example, and as JSON its name, its branches, and why to stop.

        An error is told, not raised: what an actor raises, Ray packs into an error of its own.
        """
        try:
            piece = self.measurer.measure(index, index + 1)
        except TreepackError as error:
            nothing = {name: np.array([UNKNOWN]) for name in self.measurer.task.columns}
            stop = [str(index), NO_LENGTHS, str(error), type(error).__name__]
            return Piece(index, nothing, [str(index)], {}), json.dumps(stop)
        lengths = NO_LENGTHS if piece.branches is None else piece.branches[0]
        return piece, json.dumps([piece.names[0], lengths, *piece.reasons.values()])


def measure_with_ray(task: Task, n: int, workers: int | None, chunk: int) -> Iterator[Piece]:
    """Pieces of one example each, in order.

    Args:
        task: which examples, and how; it is sent to every actor.
        n: examples of the source.
        workers: actors; by default one for each core of the cluster.
        chunk: examples that an actor is given at once.

    Raises:
        MissingPackageError: ray is not installed.
        TreepackError: an example cannot be measured, and the task does not skip such.
    """
    with needing("ray", "ray=True"):
        import ray
        import ray.data
    if not ray.is_initialized():
        ray.init()
    actors = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    found = ray.data.range(n, override_num_blocks=max(1, min(n, 4 * actors))).map_batches(
        MeasureBatch,
        fn_constructor_args=(task,),
        batch_size=chunk,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
    )
    batches = []
    for batch in found.iter_batches(batch_size=None, batch_format="numpy"):
        _raise_told(batch)
        batches.append(batch)
    whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = np.argsort(whole["id"], kind="stable")
    told = [json.loads(text) for text in whole["told"][order].tolist()]
    for start in range(0, n, chunk):
        some = slice(start, start + chunk)
        columns = {name: whole[name][order][some].astype(np.int64) for name in task.columns}
        reasons = {start + i: t[2] for i, t in enumerate(told[some]) if len(t) > 2}
        branches = Branches.of(t[1] for t in told[some]) if task.has_shapes else None
        yield Piece(start, columns, [t[0] for t in told[some]], reasons, branches)


def _raise_told(batch: dict[str, Any]) -> None:
    """Raise the error of the first example of a batch that has one."""
    order = np.argsort(batch["id"], kind="stable")
    for text in batch["told"][order].tolist():
        _, _, *why = json.loads(text)
        if len(why) > 1:
            reason, kind = why
            raise getattr(errors, kind, errors.DataError)(reason)
