"""One virtual shard: a fixed sub-stream of the data with a pool and a packer of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack._core import Packer
from treepack.errors import TreepackError
from treepack.sources import Arrival, Feed, Reader
from treepack.tree import MessageTree


class VirtualShard:
    """Feeds a packer until it gives a pack, then loads what the pack names.

    Args:
        index: number of the shard.
        feed: its examples, in order.
        reader: measures and loads them.
        budgets: capacities of a row.
        options: settings of the `Packer`.
        on_error: ``"raise"`` or ``"skip"``.
    """

    def __init__(
        self,
        index: int,
        feed: Feed,
        reader: Reader,
        budgets: Mapping[str, int],
        options: Mapping[str, Any],
        on_error: str,
    ) -> None:
        self.index = index
        self.feed = feed
        self.reader = reader
        self.packer = Packer(budgets, **options)
        self.drops = options.get("oversize") == "drop"
        self.skips = on_error == "skip"
        self.held: dict[int, tuple[Arrival, dict[str, int]]] = {}
        self.selected: list[int] = []
        self.loaded: list[MessageTree] = []
        self.waits: list[int] = []
        self.has_ended = False
        self.skipped = 0

    @staticmethod
    def check(budgets: Mapping[str, int], options: Mapping[str, Any]) -> None:
        """Raise what a packer with these settings would raise, in the process that set them."""
        Packer(budgets, **options)

    def next_pack(self) -> list[MessageTree] | None:
        """The trees of the next pack, or ``None`` when the shard is used up.

        An example that fails is gone when its error has been raised (or counted, with ``"skip"``);
        everything else of its pack comes with the next call.
        """
        while True:
            if not self.selected and not self.loaded and not self._select():
                return None
            self._load_selected()
            trees, self.loaded = self.loaded, []
            if trees:
                return trees

    def stats(self) -> dict[str, float]:
        """Numbers about the pool and about what did not make it into a pack."""
        counters = self.packer.counters
        return {
            "pool": float(len(self.packer)),
            "wait_max": float(max(self.waits, default=0)),
            "dropped": float(counters["dropped"]),
            "alone": float(counters["alone"]),
            "skipped": float(self.skipped),
        }

    def _select(self) -> bool:
        while not self.has_ended:
            try:
                pack = self._push()
            except TreepackError:
                if not self.skips:
                    raise
                self.skipped += 1
                continue
            if pack is not None:
                return self._take(pack)
        return self._take(self.packer.pop())

    def _take(self, pack: Any) -> bool:
        if pack is None:
            return False
        self.selected, self.waits = list(pack.keys), list(pack.waits)
        return True

    def _push(self) -> Any:
        try:
            arrival = next(self.feed)
        except StopIteration:
            self.has_ended = True
            return None
        arrival, cost = self.reader.measure(arrival)
        dropped = self.packer.counters["dropped"] if self.drops else 0
        pack = self._checked_push(arrival, cost)
        if not self.drops or self.packer.counters["dropped"] == dropped:
            self.held[arrival.position] = arrival, cost
        return pack

    def _checked_push(self, arrival: Arrival, cost: dict[str, int]) -> Any:
        try:
            return self.packer.push(arrival.position, cost)
        except TreepackError as error:
            # The packer knows the example by its position; the user by its key.
            text = str(error).replace(f"example {arrival.position}", f"example {arrival.name!r}", 1)
            raise type(error)(text) from None

    def _load_selected(self) -> None:
        while self.selected:
            arrival, cost = self.held.pop(self.selected.pop(0))
            try:
                self.loaded.append(self.reader.load(arrival, cost))
            except TreepackError:
                if not self.skips:
                    raise
                self.skipped += 1
