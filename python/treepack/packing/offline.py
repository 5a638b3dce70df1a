"""A whole table of costs packed at once: number of rows known, order of your choice."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt

from treepack._core import OfflinePacker
from treepack.errors import BudgetError, CostError, OversizeError
from treepack.options import Effort, OnError, OversizeOrSplit, PackOrder
from treepack.packing.packs import Packs, of_parts
from treepack.packing.splitting import Expanded, expand, not_split, split_hint

__all__ = ["pack"]

CHUNK = 1 << 16
"""Examples between two looks at progress and interrupts: a quarter of a second."""

CHUNK_BEST = 1 << 12

LARGEST = (1 << 32) - 1
"""Costs beyond any budget are all the same to the packer."""

Progress = Callable[[int, int], Any]


class HasColumns(Protocol):
    """A `treepack.costs.CostTable`, or whatever else has columns of costs."""

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]: ...


def pack(
    costs: HasColumns | Mapping[str, npt.ArrayLike],
    budgets: Mapping[str, SupportsIndex],
    *,
    order: PackOrder = "shuffled",
    window: int | None = None,
    seed: int = 0,
    early: bool | None = None,
    effort: Effort = "fast",
    oversize: OversizeOrSplit = "raise",
    on_error: OnError = "raise",
    progress: bool | Progress = False,
) -> Packs:
    """Pack a whole data set whose costs are known.

    Every example goes into exactly one pack or is dropped and counted; no pack exceeds a budget;
    the same costs, settings and seed give the same packs on every machine. Memory grows with the
    number of examples, by about 50 bytes for each.

    Args:
        costs: a `treepack.costs.CostTable`, or for each cost an array of integers ``[n]``, in the
            unit of its budget. Costs without a budget are left out of account.
        budgets: capacity of a pack by name, at most 64 positive integers up to 2**31.
        order: ``"shuffled"``: examples are drawn and packs come out in a random order. ``"kept"``:
            the table is packed as `Packer` packs a stream, in its order.
        window: of ``"shuffled"``: no pack has examples of two windows, runs of so many consecutive
            examples; by default the table is one. Of ``"kept"``: the size of the pool, by default
            48: no example waits for more packs.
        seed: of the random orders, an integer from 0 to 2**64 - 1.
        early: as of `Packer`: more searches, for packs that are fuller if there are several
            budgets; by default exactly then.
        effort: ``"fast"``, a few microseconds for each example; or ``"best"``, which searches
            longer, and under ``"shuffled"`` repacks until that no longer saves rows.
        oversize: an example larger than a budget: ``"raise"``, ``"drop"`` and count it, or
            ``"alone"``, a pack of its own, which exceeds the budget; or ``"split"``, several parts
            that share its branches, as `PackedDataset` splits it, from the lengths in the table.
            ``("split", "drop")`` and ``("split", "alone")`` say what becomes of one that cannot be.
        on_error: what becomes of examples of a table that could not be measured: ``"raise"``, or
            ``"skip"`` and count them.
        progress: called with the work done and the work in all, several times a second; ``True``
            shows a bar if rich is installed.

    Returns:
        The packs, as indices into the table, with their settings and statistics.

    Raises:
        BudgetError: a budget or setting out of range.
        CostError: an example without costs, no lengths of branches to split by, no cost for a
            budget, columns that are not integers ``[n]``, a negative cost, or an example that costs
            nothing in every budget.
        OversizeError: an example is larger than a budget, under ``oversize="raise"``.

    Example:
        >>> import treepack as tp
        >>> costs = {"tokens": [60, 70, 40, 30], "crops": [2, 1, 6, 5]}
        >>> packs = tp.pack(costs, {"tokens": 100, "crops": 8})
        >>> sorted(sorted(members.tolist()) for members in packs)
        [[0, 2], [1, 3]]
    """
    budgets = dict(budgets)
    kept = _measured(costs, on_error)
    columns = _columns(costs, budgets, kept)
    found, oversize = _split(costs, columns, budgets, kept, oversize)
    columns = columns if found is None else found.columns
    n = len(next(iter(columns.values()), ()))
    settings = _settings(order, window, n, seed)
    early = len(budgets) > 1 if early is None else bool(early)
    settings |= {"effort": effort, "early": early, "oversize": oversize}
    with _naming_split(costs, columns, budgets, kept):
        core = OfflinePacker(budgets, _interleaved(columns, n), **settings)
        _run(core, CHUNK if effort == "fast" else CHUNK_BEST, progress)
    limits = {name: int(size) for name, size in budgets.items()}
    total = n if kept is None and found is None else len(costs)  # type: ignore[arg-type]
    settings = {"budgets": limits, **settings}
    if found is None:
        return _made(core.finish(), columns, settings, kept, total)
    return of_parts(_made(core.finish(), columns, settings, None, n), found, kept, total)


def _settings(order: PackOrder, window: int | None, n: int, seed: int) -> dict[str, Any]:
    if window is None:
        window = 48 if order == "kept" else max(n, 1)
    return {
        "order": order,
        "window": _whole("window", window, 1, (1 << 32) - 1),
        "seed": _whole("seed", seed, 0, (1 << 64) - 1),
    }


@contextmanager
def _naming_split(
    costs: Any, columns: Mapping[str, Any], budgets: Mapping[str, Any], kept: Any
) -> Iterator[None]:
    """Say in the error of an example over a budget that it could be split, if it could."""
    try:
        yield
    except OversizeError as error:
        raise OversizeError(f"{error}{_hint(costs, columns, budgets, kept)}") from None


def _hint(costs: Any, columns: Mapping[str, Any], budgets: Mapping[str, Any], kept: Any) -> str:
    """What the error of the first example over a budget says more."""
    given = costs if isinstance(costs, Mapping) else costs.columns
    over = np.logical_or.reduce([columns[name] > int(size) for name, size in budgets.items()])
    index = int(over.argmax())
    branches = given.get("branches", ())
    return (
        split_hint(int(branches[index if kept is None else kept[index]])) if len(branches) else ""
    )


def _split(
    costs: Any,
    columns: dict[str, npt.NDArray[Any]],
    budgets: Mapping[str, Any],
    kept: npt.NDArray[np.intp] | None,
    oversize: Any,
) -> tuple[Expanded | None, Any]:
    """The table with parts of examples, if they are split, and what becomes of the others."""
    is_pair = isinstance(oversize, (tuple, list)) and len(oversize) == 2
    first, rest = oversize if is_pair else (oversize, "raise")
    if first != "split":
        return None, oversize
    branches = getattr(costs, "branches", None)
    if branches is not None and kept is not None:
        branches = branches.take(kept)
    limits = {name: int(size) for name, size in budgets.items()}
    found = expand(columns, branches, limits)
    if found.whole and rest == "raise":
        index, why = next(iter(found.whole.items()))
        raise not_split(f"example {index if kept is None else kept[index]}", why)
    return found, rest


def _made(
    found: Mapping[str, Any],
    columns: Mapping[str, npt.NDArray[Any]],
    settings: dict[str, Any],
    kept: npt.NDArray[np.intp] | None,
    total: int,
) -> Packs:
    """The packs as indices into the table, of which examples without costs were left out."""
    packed = total if kept is None else len(kept)
    members = found["members"] if kept is None else kept[found["members"]].astype(np.int64)
    statistics = _statistics(found, columns, settings["budgets"])
    settings = {**settings, "examples": total}
    return Packs(found["offsets"], members, settings, {**statistics, "skipped": total - packed})


def _run(core: OfflinePacker, chunk: int, progress: bool | Progress) -> None:
    with _reporter(progress) as report:
        while core.advance(chunk):
            report(*core.progress)
        done, _ = core.progress
        report(done, done)


def _measured(costs: Any, on_error: OnError) -> npt.NDArray[np.intp] | None:
    """Indices of the examples that have costs; ``None`` if all have."""
    if on_error not in get_args(OnError):
        raise CostError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    missing: Any = getattr(costs, "unmeasured", ())
    if not len(missing):
        return None
    if on_error == "raise":
        reason = getattr(costs, "reasons", {}).get(int(missing[0]), "nobody says why")
        raise CostError(
            f"{len(missing)} examples could not be measured, the first is {missing[0]}: {reason}; "
            'leave them out with on_error="skip", or measure again'
        )
    return np.delete(np.arange(len(costs)), missing)


def _columns(
    costs: Any, budgets: Mapping[str, Any], kept: npt.NDArray[np.intp] | None
) -> dict[str, npt.NDArray[Any]]:
    given = costs if isinstance(costs, Mapping) else getattr(costs, "columns", None)
    if not isinstance(given, Mapping):
        raise CostError(
            f"costs must be a CostTable or a dict of integer arrays, got {type(costs).__name__}"
        )
    missing = [name for name in budgets if name not in given]
    if missing:
        raise CostError(f"the costs are {list(given)}; there are none for the budgets {missing}")
    columns = {name: np.asarray(given[name]) for name in budgets}
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise CostError(f"cost columns must be one-dimensional and of one length, got {shapes}")
    if kept is not None:
        columns = {name: column[kept] for name, column in columns.items()}
    for name, column in columns.items():
        if column.dtype.kind not in "iu" and column.size:
            raise CostError(f"cost column {name!r} must hold integers, got {column.dtype}")
        wrong = np.flatnonzero(column < 0)
        if len(wrong):
            raise CostError(
                f"example {wrong[0]} has {column[wrong[0]]} {name}; a cost is not negative"
            )
    return columns


def _most(column: npt.NDArray[Any]) -> int:
    # A column of no examples may be of any type.
    return min(LARGEST, int(np.iinfo(column.dtype).max)) if len(column) else 0


def _interleaved(columns: Mapping[str, npt.NDArray[Any]], n: int) -> npt.NDArray[np.uint32]:
    matrix = np.empty((n, len(columns)), np.uint32)
    for place, column in enumerate(columns.values()):
        np.minimum(column, _most(column), out=matrix[:, place], casting="unsafe")
    return matrix.reshape(-1)


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        raise BudgetError(f"{name} must be an integer, got {reprlib.repr(value)}")
    number = value.__index__()
    if not least <= number <= most:
        raise BudgetError(f"{name} is {number}; it must be from {least} to {most}")
    return number


def _statistics(
    found: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]], budgets: Mapping[str, int]
) -> dict[str, Any]:
    """Rows and how full they are; rows with a single oversize example are counted apart."""
    alone = found["alone"]
    rows = len(found["offsets"]) - 1 - alone
    if found["dropped"] or alone:
        over = np.zeros(len(next(iter(columns.values()))), bool)
        for name, column in columns.items():
            over |= column > budgets[name]
        columns = {name: column[~over] for name, column in columns.items()}
    # What is left fits a budget each, so that no sum exceeds 64 bits.
    totals = {name: int(column.sum(dtype=np.int64)) for name, column in columns.items()}
    bound = max((totals[name] / budgets[name] for name in budgets), default=0.0)
    return {
        "rows": rows,
        "fill": {name: totals[name] / (budgets[name] * rows) if rows else 0.0 for name in budgets},
        "rows_per_bound": rows / bound if bound else 1.0,
        "dropped": found["dropped"],
        "alone": alone,
    }


@contextmanager
def _reporter(progress: bool | Progress) -> Iterator[Progress]:
    if callable(progress):
        yield progress
        return
    if not progress or find_spec("rich") is None:
        yield lambda _done, _total: None
        return
    from rich.progress import Progress as Bar

    with Bar() as bar:
        task = bar.add_task("packing")
        yield lambda done, total: bar.update(task, completed=done, total=total)
