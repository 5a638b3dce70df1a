"""Which branches go together where a tree is too large for a row: the parts, from lengths alone.

A part is named by the branches that it has, as stretches of their numbers: ``(0, 3, 5, 6)`` are the
branches 0, 1, 2 and 5. So a part is the same whatever is known of the lengths when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import CostError, OversizeError

Stretches = tuple[int, ...]

NEVER = 1 << 62
"""More tokens than branches can share."""


class Unit(NamedTuple):
    """Branches that stay together: one, or a chosen answer with the rejected ones behind it.

    Attributes:
        start: number of the first branch.
        end: number of the branch behind the last one.
        tokens: of all of them, each that they share counted once.
        shared: how many tokens the first of them has in common with the branch before it.
        inside: the least that two neighbours among them have in common.
    """

    start: int
    end: int
    tokens: int
    shared: int = 0
    inside: int = NEVER


class Part(NamedTuple):
    """Some branches of an example, and what they cost with the root.

    Attributes:
        stretches: which branches, ``(start, end, start, end, ...)``.
        cost: by name of the budget.
    """

    stretches: Stretches
    cost: dict[str, int]


def stays_with(roles: Sequence[str | None]) -> list[bool]:
    """For each branch, whether it stays with the one before it.

    Branches with roles stay together until the first role of the unit comes again: the n-th chosen
    answer of a row is compared with its n-th rejected one.

    Args:
        roles: what each branch is to a loss.

    Example:
        >>> stays_with(["chosen", "rejected", "chosen", "rejected", None])
        [False, True, False, True, False]
    """
    found: list[bool] = []
    first: str | None = None
    for role in roles:
        starts = first is None or role is None or role == first
        first = role if starts else first
        found.append(not starts)
    return found


def units_of(
    lengths: Sequence[int],
    joined: Sequence[bool] | None = None,
    shared: Sequence[int] | None = None,
) -> list[Unit]:
    """Which branches stay together, in order.

    Args:
        lengths: tokens of each branch, from the root to its leaf.
        joined: whether each stays with the one before it; by default none does.
        shared: how many tokens each has in common with the one before it; by default none.

    Example:
        >>> units_of([5, 6], [False, True], [0, 2])
        [Unit(start=0, end=2, tokens=9, shared=0, inside=2)]
    """
    units: list[Unit] = []
    for number, length in enumerate(lengths):
        common = 0 if shared is None else shared[number]
        if joined is not None and joined[number]:
            start, _, tokens, first, inside = units[-1]
            tokens += length - common
            units[-1] = Unit(start, number + 1, tokens, first, min(inside, common))
        else:
            units.append(Unit(number, number + 1, length, common))
    return units


def cut_lengths(
    lengths: Sequence[int], shared: Sequence[int], roles: Sequence[str | None], most: int
) -> tuple[list[int], list[int], list[str | None]]:
    """Lengths, what is shared, and roles of the branches that are left of some when they are cut.

    Where two branches share more than is left, one is left of them.

    Args:
        lengths: tokens of each branch, from the root to its leaf.
        shared: how many tokens each has in common with the one before it.
        roles: of each.
        most: tokens of a branch.

    Example:
        >>> cut_lengths([9, 8, 4], [0, 6, 2], ["a", "b", "c"], 5)
        ([5, 4], [0, 2], [None, 'c'])
    """
    left: list[tuple[int, int, str | None]] = []
    for length, common, role in zip(lengths, shared, roles, strict=True):
        if common > most:
            left[-1] = (*left[-1][:2], None)
        else:
            left.append((min(length, most), common, role))
    after, between, named = zip(*left, strict=True) if left else ((), (), ())
    return list(after), list(between), list(named)


def first_fit(units: Iterable[Unit], room: int) -> list[tuple[list[Unit], int]]:
    """The units of each part and its tokens: every unit goes to the first that has room for it.

    Args:
        units: none larger than ``room``.
        room: of each part, in tokens.
    """
    parts: list[tuple[list[Unit], int]] = []
    # What the last branch of each part has in common with the one looked at before.
    common: list[int] = []
    for unit in units:
        common = [min(each, unit.shared) for each in common]
        for place, (own, used) in enumerate(parts):
            cost = unit.tokens - common[place]
            if used + cost <= room:
                own.append(unit)
                parts[place] = own, used + cost
                break
        else:
            place = len(parts)
            parts.append(([unit], unit.tokens))
            common.append(0)
        common = [min(each, unit.inside) for each in common]
        common[place] = NEVER
    return parts


def parts_of(
    units: Sequence[Unit], cost: Mapping[str, int], budgets: Mapping[str, int]
) -> list[Part]:
    """The parts of an example that is over a budget, each within all of them.

    Args:
        units: its branches.
        cost: of the whole example, by name, tokens among them.
        budgets: what a row holds, by name.

    Returns:
        One part or more.

    Raises:
        OversizeError: its root, or the root with a single unit, is over a budget by itself.
    """
    root = cost["tokens"] - sum(unit.tokens - unit.shared for unit in units)
    _check_root({**cost, "tokens": root}, budgets)
    # It is over the budget of tokens then, as branches take nothing else.
    room = budgets["tokens"] - root
    longest = max(units, key=lambda unit: unit.tokens)
    if longest.tokens > room:
        told = f"branch {longest.start}"
        if longest.end > longest.start + 1:
            told = f"branches {longest.start} to {longest.end - 1}, which belong together,"
        raise OversizeError(
            f"its root and {told} have {root + longest.tokens} tokens, and the budget is "
            f"{budgets['tokens']}; max_branch_tokens cuts branches"
        )
    return [
        Part(_stretches(own), {**cost, "tokens": root + tokens})
        for own, tokens in first_fit(units, room)
    ]


def _check_root(root: Mapping[str, int], budgets: Mapping[str, int]) -> None:
    for name, size in budgets.items():
        if root.get(name, 0) > size:
            raise OversizeError(
                f"its root alone takes {root[name]} {name}, and the budget is {size}"
            )


def _stretches(units: Iterable[Unit]) -> Stretches:
    ends: list[int] = []
    for unit in units:
        if ends and ends[-1] == unit.start:
            ends[-1] = unit.end
        else:
            ends += [unit.start, unit.end]
    return tuple(ends)


def split_hint(branches: int) -> str:
    """What the error of an example over a budget says more, if it has several branches."""
    if branches < 2:
        return ""
    return f'; it has {branches} branches, and oversize="split" makes several trees of such'


def not_split(name: str, why: object) -> OversizeError:
    """The error of an example over a budget that cannot be split.

    Args:
        name: what the example is called.
        why: it cannot be split.
    """
    return OversizeError(
        f"{name} is over a budget and cannot be split: {why}; raise the budget, or set "
        'oversize=("split", "drop") or ("split", "alone")'
    )


class Expanded(NamedTuple):
    """A table in which examples over a budget are replaced by their parts.

    Attributes:
        columns: costs by name, integers ``[n]``.
        origin: int64 ``[n]``, the index of the example that each entry is, or is a part of.
        parts: the branches of each part, by entry.
        split: how many examples were split.
        whole: why others over a budget cannot be split, by index.
    """

    columns: dict[str, npt.NDArray[Any]]
    origin: npt.NDArray[np.int64]
    parts: dict[int, Stretches]
    split: int
    whole: dict[int, str]


def expand(
    columns: Mapping[str, npt.NDArray[Any]], branches: Any, budgets: Mapping[str, int]
) -> Expanded:
    """Replace examples over a budget by their parts; those that cannot be split stay as they are.

    Args:
        columns: costs by name, integers ``[n]``, -1 where they are not known.
        branches: tokens of the branches of each, as a ``CostTable`` has them.
        budgets: what a row holds.

    Raises:
        CostError: the table has no branches, or no tokens.

    Example:
        >>> class Lengths:
        ...     def __getitem__(self, index):
        ...         return [40, 30, 25][: 3 * index], None, None
        >>> columns = {"tokens": np.array([9, 100]), "crops": np.array([0, 2])}
        >>> found = expand(columns, Lengths(), {"tokens": 50})
        >>> found.columns["tokens"].tolist(), found.origin.tolist(), found.parts
        ([9, 45, 35, 30], [0, 1, 1, 1], {1: (0, 1), 2: (1, 2), 3: (2, 3)})
    """
    if branches is None or "tokens" not in columns:
        raise CostError(
            'oversize="split" needs the tokens of each branch, and the table has no branch_tokens; '
            "measure again, with treepack.costs.measure"
        )
    n = len(columns["tokens"])
    known = np.ones(n, bool)
    over = np.zeros(n, bool)
    for name, column in columns.items():
        known &= column >= 0
        over |= column > budgets.get(name, np.inf)
    made: dict[int, list[Part]] = {}
    whole: dict[int, str] = {}
    for index in np.flatnonzero(known & over).tolist():
        cost = {name: int(columns[name][index]) for name in {**budgets, "tokens": 0}}
        try:
            made[index] = parts_of(units_of(*branches[index]), cost, budgets)
        except OversizeError as error:
            whole[index] = str(error)
    counts = np.ones(n, np.int64)
    counts[list(made)] = [len(parts) for parts in made.values()]
    origin = np.repeat(np.arange(n), counts)
    columns = {name: column[origin] for name, column in columns.items()}
    starts = np.cumsum(counts) - counts
    parts = {}
    for index, own in made.items():
        for place, part in enumerate(own, int(starts[index])):
            parts[place] = part.stretches
            _take_part(columns, place, part, branches[index][0])
    return Expanded(columns, origin, parts, len(made), whole)


def _take_part(
    columns: Mapping[str, npt.NDArray[Any]], place: int, part: Part, lengths: Sequence[int]
) -> None:
    """Make an entry of a whole example that of a part of it."""
    whole, tokens = int(columns["tokens"][place]), part.cost["tokens"]
    ends = part.stretches
    own = sum(end - start for start, end in zip(ends[::2], ends[1::2], strict=True))
    for name, column in columns.items():
        if name == "tokens":
            column[place] = tokens
        elif name == "branches":
            column[place] = round(int(column[place]) * own / len(lengths))
        elif name in ("pairs", "targets"):
            # About its share, as of examples that nobody has looked into.
            column[place] = int(column[place]) * tokens // whole
