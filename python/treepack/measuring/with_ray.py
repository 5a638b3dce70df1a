"""The same pieces, measured by Ray Data on the machines of a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from treepack.measuring.measurer import Measurer, Piece, Task
from treepack.sources.costs.branches import Branches


class MeasureBatch:
    """What an actor does with a batch of indices.

    Args:
        task: which examples, and how.
    """

    def __init__(self, task: Task) -> None:
        self.measurer = Measurer(task)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Costs of the examples whose indices stand in the column ``id``."""
        pieces = [self.measurer.measure(index, index + 1) for index in batch["id"].tolist()]
        columns = self.measurer.task.columns
        return {
            "id": batch["id"],
            **{name: np.concatenate([p.columns[name] for p in pieces]) for name in columns},
            # Arrow would make a column of null of a batch without an error.
            "told": np.array([json.dumps(_told(piece)) for piece in pieces]),
        }


def measure_with_ray(task: Task, n: int, workers: int | None, chunk: int) -> Iterator[Piece]:
    """Pieces of one example each, in order.

    Args:
        task: which examples, and how; it is sent to every actor.
        n: examples of the source.
        workers: actors; by default one for each core of the cluster.
        chunk: examples that an actor is given at once.

    Raises:
        ImportError: ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("ray=True needs Ray Data: pip install 'treepack[ray]'") from error
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
    batches = list(found.iter_batches(batch_size=None, batch_format="numpy"))
    whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = np.argsort(whole["id"], kind="stable")
    told = [json.loads(text) for text in whole["told"][order].tolist()]
    for start in range(0, n, chunk):
        some = slice(start, start + chunk)
        columns = {name: whole[name][order][some].astype(np.int64) for name in task.columns}
        reasons = {start + i: t[2] for i, t in enumerate(told[some]) if len(t) > 2}
        lengths = [t[1] for t in told[some]]
        branches = Branches.of(lengths) if task.has_shapes else None
        yield Piece(start, columns, [t[0] for t in told[some]], reasons, branches)


def _told(piece: Piece) -> list[Any]:
    """What is no number of an example: its name, its branches, and why it could not be measured."""
    branches = [] if piece.branches is None else piece.branches[0]
    return [piece.names[0], branches, *piece.reasons.values()]
