"""How far a dataset has come: saving that, going on from it, and counting what was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.dataset._settings import Settings
from treepack.dataset.progress import Progress
from treepack.errors import StateError


class Resumable:
    """The part of a `PackedDataset` that saves where its stream stands, and goes on from there."""

    settings: Settings
    _progress: Progress

    @property
    def why_not_resumable(self) -> str | None:
        """Why the stream has no state to save, or ``None`` if it has one."""
        return self.settings.why_not_resumable

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: enough to go on as if nothing had happened.

        Valid before the first batch, between batches and after the last. In the process that packs,
        it is the state after the batch given last; once `consumed` has been called, the state after
        the batches consumed. It holds integers, strings and lists and no examples: for each virtual
        shard at most 1 KiB, and 64 bytes more for each place of its pool.

        Returns:
            A JSON-safe dict that covers the virtual shards of this rank. The state of all ranks is
            ``treepack.state.merge`` of them, and fits any number of ranks and workers.

        Raises:
            StateError: the source cannot go back to a place, or worker processes make the batches
                and `consumed` has not been called.

        Example:
            >>> import json, treepack as tp
            >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
            >>> def make():
            ...     return tp.PackedDataset(source, budgets={"tokens": 8}, shuffle=False)
            >>> first = make()
            >>> next(iter(first))["treepack"].keys
            [0, 4]
            >>> saved = json.dumps(first.state_dict())
            >>> second = make()
            >>> second.load_state_dict(json.loads(saved))
            >>> [batch["treepack"].keys for batch in second]
            [[1, 2, 3]]
        """
        self._check_resumable()
        return self._progress.state()

    def next_start(self) -> dict[str, Any]:
        """The state in which the next iteration begins: the one loaded, or the stream's start.

        Unlike `state_dict`, it is never about an iteration under way.

        Example:
            >>> import treepack as tp
            >>> dataset = tp.PackedDataset([tp.MessageTree([1])], budgets={"tokens": 8})
            >>> _ = next(iter(dataset))
            >>> dataset.next_start()["shards"], len(dataset.state_dict()["shards"])
            ([], 1)
        """
        return self._progress.next_start()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on where a state was saved.

        How far the stream had come makes no difference: the first pack after this takes 1 ms, with
        a pool of 48 and a source read by index. The number of virtual shards is taken from the
        state; the numbers of ranks and workers may differ from before, if the state covers the
        shards that they own.

        Args:
            state: from `state_dict`, or ``batch["treepack"].state`` of a stream that one process
                packed. It is not modified.

        Raises:
            StateError: a state of another version, of another stream (seed, source, budgets,
                settings), of another rank, or a damaged one; or the source cannot go back to a
                place. The dataset is then as it was.

        Example:
            >>> import treepack as tp
            >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
            >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8}, shuffle=False)
            >>> states = [batch["treepack"].state for batch in dataset]
            >>> dataset.load_state_dict(states[0])
            >>> [batch["treepack"].keys for batch in dataset]
            [[1, 2, 3]]
        """
        self._check_resumable()
        self._progress.load(state)

    def reset(self) -> None:
        """Make the next iteration begin at the start of the stream.

        What was loaded, iterated and consumed is forgotten.
        """
        self._progress.reset()

    def consumed(self, batch: Mapping[str, Any]) -> None:
        """Count a batch as trained on, so that `state_dict` knows where to go on.

        A loader with workers is ahead of the training loop. So each batch carries the state after
        it, and this collects the states of those that were used. `treepack.train.steps` calls it by
        itself. Counting a batch twice changes nothing.

        Args:
            batch: a `PackedBatch` of this dataset; in the order in which the loader gives them.

        Raises:
            StateError: the batch carries no state, or that of another rank or dataset; or its
                workers were started before a state was loaded, and cannot know of it.

        Example:
            >>> import treepack as tp
            >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
            >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8}, shuffle=False)
            >>> batches = list(dataset)  # a loader that reads ahead
            >>> dataset.consumed(batches[0])
            >>> dataset.load_state_dict(dataset.state_dict())
            >>> [batch["treepack"].keys for batch in dataset]
            [[1, 2, 3]]
        """
        state = getattr(batch.get("treepack"), "state", None)
        if state is None:
            raise StateError(self.why_not_resumable or "the batch carries no state")
        self._progress.count(state)

    def count_from(self, start: Mapping[str, Any]) -> None:
        """Count consumed batches from the start of an iteration that has just begun.

        `state_dict` is then ``start`` until the first batch is `consumed`, however many a loader
        has fetched ahead. `treepack.train.steps` calls it by itself.

        Args:
            start: what `next_start` was before the iteration began.

        Example:
            >>> import treepack as tp
            >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
            >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8}, shuffle=False)
            >>> start = dataset.next_start()
            >>> batches = list(dataset)  # a loader that reads ahead
            >>> dataset.count_from(start)
            >>> dataset.state_dict() == start
            True
        """
        self._progress.count_from(start)

    def _check_resumable(self) -> None:
        if self.why_not_resumable is not None:
            raise StateError(self.why_not_resumable)
