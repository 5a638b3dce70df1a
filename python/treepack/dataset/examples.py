"""Examples on their way into a row: their costs before selection, their trees after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from treepack.batch.layout import Row
from treepack.errors import DataError, DatasetError, TreepackError
from treepack.sources.protocol import load_example
from treepack.tree import MessageTree, example_name

if TYPE_CHECKING:
    from treepack.families import Family


@dataclass(frozen=True, slots=True)
class Arrival:
    """An example on its way into a pool.

    Attributes:
        position: its place in the seeded order; the packer's key.
        index: what a map-style source calls it, or ``None``.
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
    """Costs before selection, trees after it.

    Args:
        source: the user's source; may offer ``measure(i)`` and ``load(i)``.
        family: model family for raw rows, or ``None`` if the source yields `MessageTree`.
        budgets: names whose costs count.
        transform: applied to every tree, or ``None``.
        bidirectional: mode of image attention, by default the family's, else ``"none"``.
    """

    def __init__(
        self,
        source: Any,
        family: Family | None,
        budgets: Sequence[str],
        transform: Callable[[MessageTree], MessageTree] | None,
        bidirectional: str | None = None,
    ) -> None:
        self.source = source
        self.family = family
        self.budgets = tuple(budgets)
        self.transform = transform
        self.bidirectional = bidirectional or (family.bidirectional if family else "none")

    def measure(self, arrival: Arrival) -> tuple[Arrival, dict[str, int]]:
        """The arrival, with its item made ready to wait in the pool, and its cost."""
        try:
            if arrival.item is None and arrival.index is not None:
                return arrival, self._named(self.source.measure(arrival.index))
            item = self._row(arrival.item, arrival.name)
            if isinstance(item, MessageTree):
                item = self._finish(item, arrival.name)
                cost = item.cost
            else:
                cost = dict(self._family(item).measure(item))
        except Exception as error:
            raise failed("measuring", arrival.name, error) from error
        return replace(arrival, item=item), self._named(cost)

    def _named(self, cost: Mapping[str, int]) -> dict[str, int]:
        # A state is JSON, which knows no number of numpy.
        return {
            name: value.item() if isinstance(value := cost[name], np.generic) else value
            for name in self.budgets
            if name in cost
        }

    def load(self, arrival: Arrival, cost: Mapping[str, int]) -> MessageTree:
        """The tree of a selected example; its real cost is what was measured, or an error."""
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
            item = self._row(load_example(self.source, arrival.index), arrival.name)
        tree = item if isinstance(item, MessageTree) else self._family(item).load(item)
        return self._finish(tree, arrival.name)

    def _finish(self, tree: MessageTree, name: Any) -> MessageTree:
        """The tree as it goes into a row: with a key, transformed, and known to be sound."""
        if tree.key is None:
            tree = tree.with_key(name)
        if self.transform is not None:
            tree = self.transform(tree)
            if not isinstance(tree, MessageTree):
                raise DatasetError(
                    f"transform gave a {type(tree).__name__}; it must return a MessageTree"
                )
        if tree.image_runs is not None or not len(tree.tokens):
            # Alone, so that an error falls on this example and not on those it shares a row with.
            Row([tree]).mask(self.bidirectional)
        return tree

    def _check_cost(self, arrival: Arrival, tree: MessageTree, cost: Mapping[str, int]) -> None:
        real = tree.cost
        real = {name: real.get(name, measured) for name, measured in cost.items()}
        for name, measured in cost.items():
            if real[name] != measured:
                raise WrongCostError(
                    f"{example_name(arrival.name)} was measured with {measured} {name} and has "
                    f"{real[name]} now that it is loaded; a budget could break, so make "
                    'measure() agree with load(), or set on_wrong_cost="requeue"',
                    tree,
                    real,
                )

    def _row(self, item: Any, name: Any) -> Any:
        if isinstance(item, Mapping):
            from treepack.sources.conversations import read_row

            return read_row(item, f"row {name}")
        return item

    def _family(self, item: Any) -> Family:
        if self.family is None:
            raise DatasetError(
                f"the source gave a {type(item).__name__}; pass processor= to turn rows into "
                "trees, or let the source give MessageTree"
            )
        return self.family


class WrongCostError(DataError):
    """An example that costs other than measured.

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
    """The error of an example, which names it."""
    if isinstance(error, TreepackError) and example_name(name) in str(error):
        return error
    kind = type(error) if isinstance(error, TreepackError) else DataError
    return kind(f"{example_name(name)}: {doing} it failed: {type(error).__name__}: {error}")
