"""Settings that change trees before they are packed: splitting at branches, cutting branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from treepack.dataset._settings import positive
from treepack.errors import BudgetError, DatasetError
from treepack.options import Oversize

if TYPE_CHECKING:
    from treepack.families import Family

REST = get_args(Oversize)


def check_oversize(oversize: Any, packs: Any) -> tuple[bool, str]:
    """Whether trees are split at their branches, and what becomes of the others over a budget.

    Args:
        oversize: ``"split"``, a pair of that and one of `REST`, or one of `REST` alone.
        packs: that were made before, or ``None``.

    Raises:
        BudgetError: something else.
        DatasetError: trees are to be split whose packs were made before.
    """
    is_pair = isinstance(oversize, (tuple, list)) and len(oversize) == 2
    first, rest = oversize if is_pair else (oversize, "raise" if oversize == "split" else oversize)
    if (is_pair and first != "split") or rest not in REST:
        raise BudgetError(
            f'oversize must be one of {[*REST, "split"]}, or ("split", "drop") or ("split", '
            f'"alone"), got {oversize!r}'
        )
    if first == "split" and packs is not None:
        raise DatasetError(
            'oversize="split" makes new examples, and packs= names those that are; pack with '
            'treepack.pack(oversize="split"), and leave it out here'
        )
    return first == "split", rest


def check_truncation(value: Any, source: Any, family: Family | None, packs: Any) -> int | None:
    """To how many tokens branches are cut, or ``None``.

    Raises:
        DatasetError: not a positive integer; or the costs are known in advance, and are those of
            whole branches.
    """
    most = positive("max_branch_tokens", value)
    if most is None:
        return None
    known = "packs=" if packs is not None else "measure" if hasattr(source, "measure") else ""
    if known:
        raise DatasetError(
            f"max_branch_tokens={most} changes what examples cost, and {known} has their costs "
            "before; cut branches in the source, and measure that"
        )
    if family is not None and not hasattr(family, "outline"):
        raise DatasetError(
            f"max_branch_tokens={most} needs the lengths of branches, and family {family.name!r} "
            "has no outline(); inherit from treepack.families.Family"
        )
    return most
