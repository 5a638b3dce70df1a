"""One virtual shard of packs that were made before: it loads what they name."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from treepack.dataset._settings import Policy
from treepack.dataset.shards.base import Plan, Shard
from treepack.dataset.shards.examples import Arrival, Examples
from treepack.dataset.shards.given import GivenPacks
from treepack.dataset.shards.readers import Reader
from treepack.dataset.state import ShardState
from treepack.errors import BudgetError, CostError, TreepackError
from treepack.tree import MessageTree, example_name


class PackShard(Shard):
    """Loads one pack after the other. What fails is lost alone; the rest of its pack comes.

    Args:
        index: number of the shard.
        reader: numbers of packs, in order.
        examples: loads them.
        policy: what the packs must keep to.
        packs: which examples each has.

    Attributes: those of `Shard`.
    """

    packs: int
    skipped: int
    has_ended: bool

    def __init__(
        self, index: int, reader: Reader, examples: Examples, policy: Policy, packs: GivenPacks
    ) -> None:
        super().__init__(index, reader.patience, policy)
        self._reader = reader
        self._examples = examples
        self._packs = packs
        self._counters = {"pushed": 0, "packs": 0, "dropped": 0, "alone": 0}
        # What is not loaded yet: position of the pack, the place in it, and the example there.
        self._waiting: deque[tuple[int, int, int]] = deque()
        self._loaded: list[tuple[int, int, MessageTree]] = []

    def next_pack(self) -> list[MessageTree] | None:
        """The trees of the next pack, or ``None`` when the shard is used up.

        Raises:
            TreepackError: an example cannot be loaded, or the pack is over a budget.
        """
        while True:
            if not self._waiting and not self._loaded and not self._read():
                self.has_ended = True
                return None
            self._load()
            taken, self._loaded = self._loaded, []
            trees = [tree for _, _, tree in taken]
            if trees and self.fits(trees, taken[0][0]):
                self.packs += 1
                self._counters["packs"] += 1
                return trees

    def plan(self) -> Plan | None:
        """The next pack, which somebody else loads; ``None`` when the shard is used up."""
        if not self._read():
            self.has_ended = True
            return None
        self.packs += 1
        self._counters["packs"] += 1
        # Nothing was measured: `fits` checks the pack as a whole.
        entries: list[tuple[Arrival, dict[str, int]]] = [
            (self._arrival(*each), {}) for each in self._waiting
        ]
        self._waiting.clear()
        if len(entries) == 1 and entries[0][0].part is None:
            self._count_oversize(entries[0][0].index)
        return Plan(entries, [])

    def _count_oversize(self, member: int | None) -> None:
        """Count an example over a budget where all processes see it: before it is loaded."""
        name = {"drop": "dropped", "alone": "alone"}.get(self._policy.packer["oversize"])
        try:
            if name and self._policy.is_over(self._examples.source.measure(member)):
                self._counters[name] += 1
        except TreepackError:
            # It has no costs; if it cannot be loaded either, that is noticed there.
            return

    def stats(self) -> dict[str, float]:
        """Numbers about what did not make it into a row."""
        counts = {name: float(self._counters[name]) for name in ("dropped", "alone")}
        return {"shard": float(self.index), **counts, "skipped": float(self.skipped)}

    def state(self) -> ShardState:
        """Where the shard stands: enough to go on as if nothing had happened."""
        left = [[position, place] for position, place, _ in (*self._loaded, *self._waiting)]
        return ShardState(
            shard=self.index,
            packs=self.packs,
            position=self._reader.position,
            has_ended=int(self.has_ended),
            skipped=self.skipped,
            counters=list(self._counters.values()),
            keys=[],
            arrivals=[],
            costs=[],
            pending=left,
            requeued=[],
            waits=[],
            bookmark="",
        )

    def restore(self, state: ShardState) -> None:
        """Go on from a `state`; the reader is at its place already."""
        self._counters = dict(zip(self._counters, state.counters, strict=True))
        for position, place in state.pending:
            self._waiting.append((position, place, self._packs[self._number(position)][place]))
        self.packs, self.skipped = state.packs, state.skipped

    def _read(self) -> bool:
        try:
            arrival = next(self._reader)
        except StopIteration:
            return False
        self._counters["pushed"] += len(arrival.item)
        self._waiting.extend((arrival.position, *each) for each in enumerate(arrival.item))
        return True

    def _number(self, position: int) -> int:
        """Which pack stands at a position."""
        return self._reader.recall(position).index or 0

    def _arrival(self, position: int, place: int, member: int) -> Arrival:
        part = self._packs.part(self._number(position), place) if self._packs.has_parts else None
        return Arrival(position, member, None, part)

    def _load(self) -> None:
        while self._waiting:
            position, place, member = self._waiting.popleft()
            try:
                # Nothing was measured: the pack as a whole is checked against the budgets.
                tree = self._examples.load(self._arrival(position, place, member), {})
                self._loaded.append((position, place, tree))
            except TreepackError as error:
                self._failed(error)

    def fits(self, trees: list[MessageTree], position: int) -> bool:
        """Whether a pack may become a row; one of a single example may be over a budget.

        Args:
            trees: of the pack, as far as they could be loaded.
            position: of the pack.

        Raises:
            TreepackError: it may not, and errors are raised.
        """
        try:
            over = self._over(trees)
        except CostError as error:
            return self._lost(error, trees)
        if over is None:
            return True
        oversize = self._policy.packer["oversize"]
        if len(trees) > 1 or oversize == "raise":
            return self._lost(self._error(trees, position, *over), trees)
        if oversize == "alone":
            self._counters["alone"] += 1
            return True
        self._counters["dropped"] += 1
        self.leaving.add(f"{example_name(trees[0].key)} is over a budget, and dropped")
        return False

    def _error(self, trees: list[MessageTree], position: int, name: str, total: int) -> BudgetError:
        limit = f"{total} {name}, and the budget is {self._policy.budgets[name]}"
        if len(trees) == 1:
            told = f"{example_name(trees[0].key)} has {limit}; raise it, or set oversize="
            return BudgetError(f'{told}"drop" or "alone"')
        return BudgetError(
            f"the {len(trees)} examples of pack {self._number(position)} together have {limit}; "
            "the packs were made for other costs or budgets, so pack again"
        )

    def _over(self, trees: list[MessageTree]) -> tuple[str, int] | None:
        for name, size in self._policy.budgets.items():
            total = sum(_cost_of(tree, name) for tree in trees)
            if total > size:
                return name, total
        return None

    def _lost(self, error: TreepackError, trees: list[MessageTree]) -> bool:
        if not self._policy.skips:
            raise error
        self.skip(error, self.leaving, len(trees))
        return False


def _cost_of(tree: MessageTree, name: str) -> int:
    cost: Mapping[str, int] = tree.cost
    if name not in cost:
        raise CostError(
            f"{example_name(tree.key)} has no cost {name!r}; its costs are {list(cost)}"
        )
    return cost[name]
