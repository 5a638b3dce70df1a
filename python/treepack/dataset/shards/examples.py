"""Examples on their way into a row: their costs before selection, their trees after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from treepack.batch.layout import check_mask
from treepack.dataset._settings import Settings
from treepack.dataset.shards.parts import cut_out, joined_of, shorten
from treepack.dataset.state import Key
from treepack.errors import DataError, DatasetError, OversizeError, TreepackError
from treepack.options import Bidirectional
from treepack.packing.splitting import (
    Stretches,
    Unit,
    cut_lengths,
    not_split,
    parts_of,
    stays_with,
    units_of,
)
from treepack.sources.protocol import load_example
from treepack.tree import MessageTree, example_name

if TYPE_CHECKING:
    from treepack.families import Family


@dataclass(slots=True)
class Arrival:
    """An example on its way into a pool.

    Attributes:
        position: its place in the seeded order; the packer's key.
        index: its number in a map-style source, or ``None``.
        item: what the source gave, or ``None`` as long as only its cost is known; of a part, its
            tree or what the source gave.
        part: the branches that it has of a tree that was split, as ``parts`` names them.
        shortened: branches that were cut, and the tokens that they lost.
    """

    position: int
    index: int | None
    item: Any
    part: Stretches | None = None
    shortened: tuple[int, int] = (0, 0)

    @property
    def key(self) -> Key:
        """What the packer calls it: its position, and the branches of a part."""
        return self.position if self.part is None else (self.position, *self.part)

    def cut_to(self, part: Stretches) -> Arrival:
        """A part of this example, which is whole."""
        item = cut_out(self.item, part) if isinstance(self.item, MessageTree) else self.item
        return replace(self, item=item, part=part)

    @property
    def name(self) -> Any:
        """What errors and batches call the example."""
        key = getattr(self.item, "key", None)
        if key is not None:
            return key
        return self.position if self.index is None else self.index


class Examples:
    """Turns what the source gives into costs before selection, and into trees after it.

    Args:
        settings: of the dataset; its source, family, budgets and transform count here.
    """

    def __init__(self, settings: Settings) -> None:
        family = settings.family
        self.source: Any = settings.source
        self.family = family
        self.budgets: tuple[str, ...] = tuple(settings.budgets)
        self.transform: Callable[[MessageTree], MessageTree] | None = settings.transform
        self.most: int | None = settings.max_branch_tokens
        self.bidirectional: Bidirectional = settings.bidirectional or (
            family.bidirectional if family else "none"
        )

    def measure(self, arrival: Arrival) -> tuple[Arrival, dict[str, int]]:
        """The cost of an example before it is selected.

        Args:
            arrival: what the reader gave.

        Returns:
            The arrival, with its item made ready to wait in the pool, and its cost for every
            budget, in whole units by name.

        Raises:
            TreepackError: it cannot be measured; the message names the example.
        """
        try:
            if arrival.item is None and arrival.index is not None:
                return arrival, self._named(self.source.measure(arrival.index))
            item = self._item(arrival.item, arrival.name)
            shortened = (0, 0) if self.most is None else self._shortened(item)
            item, cost = self._cost(item, arrival.name)
        except Exception as error:
            raise failed("measuring", arrival.name, error) from error
        made = Arrival(arrival.position, arrival.index, item, None, shortened)
        return made, self._named(cost)

    def _cost(self, item: Any, name: Any) -> tuple[Any, Mapping[str, int]]:
        """An item made ready to wait in the pool, and what it costs."""
        if isinstance(item, MessageTree):
            tree = self._finish(item, name)
            return tree, tree.cost
        if self.most is not None:
            return item, self._outline(item)[0]
        return item, dict(self._family(item).measure(item))

    def _shortened(self, item: Any) -> tuple[int, int]:
        """Branches that are cut, and the tokens that they lose."""
        if isinstance(item, MessageTree):
            return shorten(item, self.most or 0)[1:]
        return self._outline(item)[2]

    def _outline(self, item: Any) -> tuple[dict[str, int], list[Unit], tuple[int, int]]:
        """Costs of conversations, their branches, and what was cut off these."""
        outline = self._family(item).outline(item)
        is_one_node = not item.media and len(outline.branches) == 1
        # The root of one node is cut with it; other roots are not.
        before = [length + outline.root * is_one_node for length in outline.branches]
        roles: Sequence[str | None] = [item.roles[n] for n in outline.order] or item.roles
        shared: Sequence[int] = outline.shared or [0] * len(before)
        after, lost = before, (0, 0)
        if self.most is not None:
            total = sum(before) - sum(shared)
            cut = sum(length > self.most for length in before)
            after, shared, roles = cut_lengths(before, shared, roles, self.most)
            lost = cut, total - sum(after) + sum(shared)
        costs = {**outline.costs, "tokens": outline.costs["tokens"] - lost[1]}
        units = [] if is_one_node else units_of(after, stays_with(roles), shared)
        return costs, units, lost

    def split(
        self, arrival: Arrival, cost: Mapping[str, int], budgets: Mapping[str, int]
    ) -> list[tuple[Arrival, dict[str, int]]]:
        """The parts of an example that is over a budget, each with its cost.

        Args:
            arrival: what `measure` returned.
            cost: the cost that it returned.
            budgets: what a row holds of examples.

        Raises:
            CostMismatchError: the example costs something else.
            OversizeError: it cannot be split.
            TreepackError: it cannot be loaded; the message names the example.
        """
        try:
            item, real, units = self._known_shape(arrival, cost) or self._shape(arrival)
        except Exception as error:
            raise failed("splitting", arrival.name, error) from error
        self._check_cost(arrival, item, real, cost)
        try:
            parts = parts_of(units, real, budgets)
        except OversizeError as error:
            raise not_split(example_name(arrival.name), error) from None
        return [(arrival.cut_to(part.stretches), self._named(part.cost)) for part in parts]

    def count_branches(self, arrival: Arrival) -> int:
        """Branches of an example that waits, as far as they are known without loading it."""
        item = arrival.item
        if isinstance(item, MessageTree):
            return len(item.branch_lengths()[0])
        if item is not None:
            return len(getattr(item, "branches", ()))
        known = self._table_branches(arrival)
        if known is not None:
            return len(known[0])
        return int(self.source.measure(arrival.index).get("branches", 0))

    def _table_branches(self, arrival: Arrival) -> Any:
        branches = getattr(self.source, "branches", None)
        return None if branches is None else branches(arrival.index)

    def _known_shape(
        self, arrival: Arrival, cost: Mapping[str, int]
    ) -> tuple[Any, Mapping[str, int], list[Unit]] | None:
        """The same as `_shape` from a table, which knows nothing of what a transform makes."""
        if arrival.item is not None or self.transform is not None or arrival.index is None:
            return None
        found = self._table_branches(arrival)
        return None if found is None else (None, cost, units_of(*found))

    def _shape(self, arrival: Arrival) -> tuple[Any, dict[str, int], list[Unit]]:
        """The item of an arrival, what it costs, and its branches."""
        tree = arrival.item
        if not isinstance(tree, MessageTree):
            item = load_example(self.source, arrival.index) if tree is None else tree
            item = self._item(item, arrival.name)
            # What a transform makes of the branches is seen on the tree alone.
            is_known = self.transform is None and hasattr(self.family, "outline")
            if is_known and not isinstance(item, MessageTree):
                costs, units, _ = self._outline(item)
                return item, costs, units
            tree = self._made(item, arrival.name)
        lengths, shared = tree.branch_lengths()
        return tree, tree.cost, units_of(lengths, joined_of(tree), shared)

    def _named(self, cost: Mapping[str, int]) -> dict[str, int]:
        named = {name: cost[name] for name in self.budgets if name in cost}
        for name, value in named.items():
            if type(value) is not int and isinstance(value, np.generic):
                # A state is JSON, which has no numbers of numpy.
                named[name] = value.item()
        return named

    def load(self, arrival: Arrival, cost: Mapping[str, int]) -> MessageTree:
        """The tree of a selected example, as it goes into the row.

        Args:
            arrival: what `measure` returned.
            cost: the cost that it returned.

        Raises:
            CostMismatchError: the tree costs something else.
            TreepackError: it cannot be loaded; the message names the example.
        """
        try:
            tree = self._tree(arrival)
        except Exception as error:
            raise failed("loading", arrival.name, error) from error
        self._check_cost(arrival, tree, tree.cost, cost)
        return tree

    def _tree(self, arrival: Arrival) -> MessageTree:
        item = arrival.item
        if isinstance(item, MessageTree):
            # It waited in the pool as it goes into the row.
            return item
        if item is None:
            item = load_example(self.source, arrival.index)
        tree = self._made(item, arrival.name)
        return tree if arrival.part is None else cut_out(tree, arrival.part)

    def _made(self, item: Any, name: Any) -> MessageTree:
        """The whole tree of what the source gave."""
        if not isinstance(item, MessageTree):
            item = self._item(item, name)
            if not isinstance(item, MessageTree):
                item = self._family(item).load(item)
        return self._finish(item, name)

    def _finish(self, tree: MessageTree, name: Any) -> MessageTree:
        """The tree as it goes into a row: with a key, cut, transformed and checked."""
        if tree.key is None:
            tree = tree.with_key(name)
        if self.most is not None:
            tree = shorten(tree, self.most).tree
        if self.transform is not None:
            tree = self.transform(tree)
            if not isinstance(tree, MessageTree):
                raise DatasetError(
                    f"transform gave a {type(tree).__name__}; it must return a MessageTree"
                )
        if tree.image_runs is not None or not len(tree.tokens):
            # Checked alone, so that an error is this example's and not that of a whole row.
            check_mask(tree, self.bidirectional)
        return tree

    def _check_cost(
        self, arrival: Arrival, item: Any, real: Mapping[str, int], cost: Mapping[str, int]
    ) -> None:
        for name, measured in cost.items():
            if real.get(name, measured) != measured:
                raise CostMismatchError(
                    f"{example_name(arrival.name)} was measured with {measured} {name} and has "
                    f"{real[name]} now that it is loaded, which could exceed a budget; make "
                    'measure() agree with load(), or set on_cost_mismatch="requeue"',
                    item,
                    {name: real.get(name, measured) for name, measured in cost.items()},
                )

    def _item(self, item: Any, name: Any) -> Any:
        """A record as `Conversations`; trees and conversations as they are."""
        if isinstance(item, Mapping):
            from treepack.sources.conversations import read_record

            return read_record(item, f"record {name}")
        return item

    def _family(self, item: Any) -> Family:
        if self.family is None:
            raise DatasetError(
                f"the source gave a {type(item).__name__}; pass processor= to turn records into "
                "trees, or let the source give MessageTree"
            )
        return self.family


class CostMismatchError(DataError):
    """An example whose cost is not the one that was measured.

    Attributes:
        item: the example, as it waits in a pool.
        cost: what it really costs.
    """

    def __init__(
        self, message: str, item: Any = None, cost: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(message)
        self.item = item
        self.cost: dict[str, int] = dict(cost or {})


def failed(doing: str, name: Any, error: Exception) -> TreepackError:
    """An error as one of treepack's that names the example; one that does already stays as it is.

    Args:
        doing: what was done to the example, such as ``"loading"``.
        name: of the example.
        error: what was raised.
    """
    if isinstance(error, TreepackError) and example_name(name) in str(error):
        return error
    kind = type(error) if isinstance(error, TreepackError) else DataError
    return kind(f"{example_name(name)}: {doing} it failed: {type(error).__name__}: {error}")
