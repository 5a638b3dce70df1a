"""Examples on their way into a row: their costs before selection, their trees after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from treepack.batch.layout import check_mask
from treepack.dataset._settings import Settings
from treepack.errors import DataError, DatasetError, TreepackError
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
        item: what the source gave, or ``None`` as long as only its cost is known.
    """

    position: int
    index: int | None
    item: Any

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
        self.source = settings.source
        self.family = family
        self.budgets = tuple(settings.budgets)
        self.transform = settings.transform
        self.bidirectional = settings.bidirectional or (family.bidirectional if family else "none")

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
            item, cost = self._cost(self._item(arrival.item, arrival.name), arrival.name)
        except Exception as error:
            raise failed("measuring", arrival.name, error) from error
        return Arrival(arrival.position, arrival.index, item), self._named(cost)

    def _cost(self, item: Any, name: Any) -> tuple[Any, Mapping[str, int]]:
        """An item made ready to wait in the pool, and what it costs."""
        if isinstance(item, MessageTree):
            tree = self._finish(item, name)
            return tree, tree.cost
        return item, dict(self._family(item).measure(item))

    def _named(self, cost: Mapping[str, int]) -> dict[str, int]:
        # A state is JSON, which has no numbers of numpy.
        return {
            name: value.item()
            if type(value := cost[name]) is not int and isinstance(value, np.generic)
            else value
            for name in self.budgets
            if name in cost
        }

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
        self._check_cost(arrival, tree, cost)
        return tree

    def _tree(self, arrival: Arrival) -> MessageTree:
        item = arrival.item
        if isinstance(item, MessageTree):
            # It waited in the pool as it goes into the row.
            return item
        if item is None:
            item = load_example(self.source, arrival.index)
        if not isinstance(item, MessageTree):
            item = self._item(item, arrival.name)
            if not isinstance(item, MessageTree):
                item = self._family(item).load(item)
        return self._finish(item, arrival.name)

    def _finish(self, tree: MessageTree, name: Any) -> MessageTree:
        """The tree as it goes into a row: with a key, transformed and checked."""
        if tree.key is None:
            tree = tree.with_key(name)
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

    def _check_cost(self, arrival: Arrival, tree: MessageTree, cost: Mapping[str, int]) -> None:
        real = tree.cost
        for name, measured in cost.items():
            if real.get(name, measured) != measured:
                raise CostMismatchError(
                    f"{example_name(arrival.name)} was measured with {measured} {name} and has "
                    f"{real[name]} now that it is loaded, which could exceed a budget; make "
                    'measure() agree with load(), or set on_cost_mismatch="requeue"',
                    tree,
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
        tree: the example.
        cost: what it really costs.
    """

    def __init__(
        self, message: str, tree: MessageTree | None = None, cost: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(message)
        self.tree = tree
        self.cost = dict(cost or {})


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
