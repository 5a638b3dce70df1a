"""Packs that were made before, and packs that are dealt to ranks: whether they can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treepack.dataset.shards.given import GivenPacks
from treepack.errors import BudgetError, DatasetError
from treepack.packing.balance import Balance
from treepack.packing.examples import WEIGHTS
from treepack.sources.protocol import is_map_style

if TYPE_CHECKING:
    from treepack.dataset._settings import Settings


def check_packs(packs: Any, source: Any, requeues: bool) -> GivenPacks | None:
    """Packs that were made before, of the examples of this source.

    Raises:
        DatasetError: they are something else, or settings that packing on the fly alone has.
    """
    if packs is None:
        return None
    if not is_map_style(source):
        raise DatasetError(
            f"packs name examples by index, and {type(source).__name__} is not read by index; give "
            "the source __len__ and __getitem__"
        )
    if requeues:
        raise DatasetError(
            'on_cost_mismatch="requeue" needs a pool to wait in, and packs= has none; leave it out'
        )
    return GivenPacks(packs, len(source))


def check_balance(
    balance: Any,
    source: Any,
    budgets: Mapping[str, int],
    requeues: bool,
    splits: bool,
    transform: Any,
) -> None:
    """Reject packs that cannot be dealt before they are loaded.

    Args:
        balance: as given, or ``None``.
        source: with the costs that were given.
        budgets: of a row, all of which are weighed.
        requeues: whether examples that cost something else wait again.
        splits: whether trees are split, for which the lengths of their branches must be known.
        transform: of loaded trees, or ``None``; what it makes of branches no table knows.

    Raises:
        BudgetError: nothing says what a budget takes to compute.
        DatasetError: an iterable, a source without costs, or settings that would make ranks see
            other packs.
    """
    if balance is None:
        return
    if not isinstance(balance, Balance):
        raise DatasetError(f"balance must be a treepack.Balance, got {balance!r}")
    name = type(source).__name__
    if not is_map_style(source):
        raise DatasetError(
            f"balance= makes the packs of all ranks in every process, and {name} is not read by "
            "index, so each would read all of it; give it __len__ and __getitem__"
        )
    if not hasattr(source, "measure"):
        raise DatasetError(
            f"balance= weighs examples before they are loaded, and {name} does not know their "
            "costs; pass costs=, their table, or give it measure()"
        )
    if requeues:
        raise DatasetError(
            'balance= deals packs before they are loaded, and on_cost_mismatch="requeue" would '
            "change them in one process alone; leave it out"
        )
    known = getattr(getattr(source, "costs", None), "branches", None)
    if splits and (known is None or transform is not None):
        raise DatasetError(
            'balance= with oversize="split" would load every large tree in every process, unless '
            "the tokens of its branches are known; pass costs= of treepack.costs.measure, which "
            "has them, and no transform="
        )
    unknown = [name for name in budgets if name not in {**WEIGHTS, **balance.weights}]
    if unknown:
        raise BudgetError(
            f"nothing says what a unit of {unknown} takes to compute; pass "
            f"Balance(weights={{{unknown[0]!r}: ...}}), or 0 if it takes nothing"
        )


def check_step(settings: Settings | None, accumulate: int) -> None:
    """Reject steps of another size than packs are dealt for.

    Args:
        settings: of the dataset, if it is one.
        accumulate: packs of each rank in a step.

    Raises:
        DatasetError: it is not what the balance says.
    """
    balance = getattr(settings, "balance", None)
    if balance is not None and balance.accumulate != accumulate:
        raise DatasetError(
            f"the packs are balanced for accumulate={balance.accumulate}, and a step has "
            f"{accumulate} of each rank; pass Balance(accumulate={accumulate})"
        )
