"""What packing would do with a data set, from its costs alone: fill, waits, memory, imbalance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from treepack._core import Packer
from treepack.errors import BudgetError, CostError
from treepack.options import SimulatedOversize
from treepack.packing.advice import Advice, advise, round_up
from treepack.packing.balance import Balance, imbalance
from treepack.packing.examples import Examples, step_costs
from treepack.packing.outcome import FrontierPoint, PoolOutcome
from treepack.packing.report import report
from treepack.packing.splitting import expand

POOL_SIZES = (16, 32, 48, 96)
RANKS = (8, 16, 64)
SAMPLE = 20_000
FEW = 2_000
"""Of fewer examples several epochs are packed: the last rows, less full, then count for little."""

FRONTIER_SAMPLE = 8_000
"""Examples that are enough to compare budgets with one another."""

FRONTIER_POOL = 48
PLATEAU = 0.002
"""A larger budget that gives no more than this is the last one tried."""


@dataclass(frozen=True)
class Simulation:
    """What `simulate` found; ``str()`` of it is a report of 80 columns.

    Attributes:
        examples: in the table; of those that were split, each part counts.
        simulated: how many were packed: drawn at random if not all, over and over if they are few.
        unmeasured: that the table has no costs of, and that are left out.
        oversize: that exceed a budget, and are left out.
        split: that exceeded a budget, and were split.
        sampling_error: how much the number of packs of the whole data set may differ, as a share of
            it, at 95 % confidence; 0 if all examples were packed.
        outcomes: of each set of budgets and each pool size.
        frontier: what other budgets would give, from the first set of budgets.
        histograms: how the costs are spread, by budget: shares of the examples in 24 equal
            intervals from 0 to the budget of the first set.
        advice: in words and numbers, the most important first.
    """

    examples: int
    simulated: int
    unmeasured: int
    oversize: int
    sampling_error: float
    outcomes: tuple[PoolOutcome, ...]
    frontier: tuple[FrontierPoint, ...]
    histograms: dict[str, list[float]]
    advice: tuple[Advice, ...]
    split: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-safe lists and dicts, under the names of the attributes."""
        return asdict(self)

    def __str__(self) -> str:
        return report(self.to_dict())


def simulate(
    costs: Any,
    budgets: Mapping[str, int] | Sequence[Mapping[str, int]],
    *,
    pool_sizes: Sequence[int] = POOL_SIZES,
    ranks: Sequence[int] = RANKS,
    seed: int = 0,
    sample: int | None = SAMPLE,
    weights: Mapping[str, float] | None = None,
    packer: Mapping[str, Any] | None = None,
    oversize: SimulatedOversize = "drop",
) -> Simulation:
    """Pack a data set's costs with several pool sizes and budgets, and say what to change.

    Examples arrive in a random order, as a shuffled stream gives them. Nothing is loaded, and what
    is packed is packed by `Packer` itself, so rows, waits and fill are those of training. It needs
    numpy alone.

    Args:
        costs: a `treepack.costs.CostTable`; or integers ``[n]`` by name, or anything with them as
            ``columns``. Of a column ``branches`` the branches of a row are counted; ``pairs``, what
            attention computes of an example, makes the imbalance exact.
        budgets: capacity of a row by name; or several sets of them, to compare.
        pool_sizes: examples that wait, in each of the simulations.
        ranks: numbers of data-parallel ranks, for the imbalance of their steps.
        seed: of the order, and of the sample.
        sample: examples that are packed, drawn at random where there are more; of fewer than 2,000
            examples several epochs are packed. ``None`` packs each example once.
        weights: what one unit of a column costs, in milliseconds or any other unit, for the
            imbalance of steps; those given replace the defaults, which are estimates for a model
            of 7 billion parameters: ``tokens`` 0.044, ``pairs`` 7.3e-6, ``crops`` 4.0, ``patches``
            0.0055.
        packer: further settings for `Packer`, such as ``{"early": True}``.
        oversize: what becomes of examples over a budget: ``"drop"``, they are left out; or
            ``"split"``, as `PackedDataset` splits them, which needs a table with the tokens of
            branches; those that cannot be split are left out.

    Returns:
        Outcomes and advice; ``to_dict()`` for JSON, ``str()`` for a report.

    Raises:
        BudgetError: a budget that the costs do not have, or one that `Packer` does not take.
        CostError: no costs, no example that fits, no lengths of branches to split by, or a number
            of examples or ranks below 1.

    Source:
        The cost of a step as a linear model of tokens, crops and pairs, and max / mean - 1 over
        ranks as its imbalance: docs/guide/measuring.md.

    Example:
        >>> import numpy as np, treepack as tp
        >>> tokens = np.random.default_rng(0).integers(100, 900, 2_000)
        >>> found = tp.simulate({"tokens": tokens}, {"tokens": 4_096}, pool_sizes=[8, 48])
        >>> [round(outcome.over_bound, 2) for outcome in found.outcomes]
        [1.09, 1.0]
        >>> found.advice[0].kind
        'binding'
    """
    columns = check_columns(costs)
    sets = _check_budgets(budgets, columns)
    _check_counts(sample=[1 if sample is None else sample], ranks=ranks)
    _check_oversize(oversize)
    tables = [
        _table(costs, columns, each, weights or {}, oversize == "split")
        for each in (sets if oversize == "split" else sets[:1])
    ]
    samples = [_Sample.of(table, seed, sample) for table in tables]
    # Without splitting, all budgets are tried on one sample.
    samples *= len(sets) // len(samples)
    outcomes = tuple(
        _pack(_fitting(some.drawn, each), each, int(size), ranks, packer or {}).of_all(some.share)
        for each, some in zip(sets, samples, strict=True)
        for size in pool_sizes
    )
    return _found(tables[0], samples[0].drawn, sets[0], outcomes, packer or {})


def _found(
    table: Examples,
    drawn: Examples,
    budgets: Mapping[str, int],
    outcomes: tuple[PoolOutcome, ...],
    settings: Mapping[str, Any],
) -> Simulation:
    """What the outcomes say together, for the first set of budgets."""
    few = drawn.take(np.arange(min(len(drawn.indices), FRONTIER_SAMPLE)))
    found = Simulation(
        examples=table.total,
        simulated=len(drawn.indices),
        unmeasured=table.unmeasured,
        oversize=len(table.oversize),
        sampling_error=_sampling_error(drawn, budgets, len(table.indices)),
        outcomes=outcomes,
        frontier=_frontier(few, budgets, settings),
        histograms={name: _histogram(drawn.costs[name], budgets[name]) for name in budgets},
        advice=(),
        split=table.split,
    )
    return _with_advice(found, table)


def _check_oversize(oversize: SimulatedOversize) -> None:
    if oversize not in get_args(SimulatedOversize):
        raise BudgetError(f"oversize must be 'drop' or 'split', got {oversize!r}")


class _Sample(NamedTuple):
    """What is packed of a table, and how many times as much there is."""

    drawn: Examples
    share: float

    @classmethod
    def of(cls, table: Examples, seed: int, sample: int | None) -> _Sample:
        order = _order(len(table.indices), seed, sample)
        return cls(table.take(order), len(table.indices) / max(len(order), 1))


def _table(
    costs: Any,
    columns: Mapping[str, npt.NDArray[np.int64]],
    budgets: Mapping[str, int],
    weights: Mapping[str, float],
    splits: bool,
) -> Examples:
    """What can be packed, perhaps with parts in place of examples over a budget."""
    if not splits:
        return Examples.of(columns, budgets, weights)
    found = expand(columns, getattr(costs, "branches", None), budgets)
    made = Examples.of(found.columns, budgets, weights)
    return replace(made, oversize=found.origin[made.oversize], split=found.split, branchy=0)


def _order(n: int, seed: int, sample: int | None) -> npt.NDArray[np.int64]:
    """Places in the order of arrival: a sample of many, several epochs of few, else each once."""
    rng = np.random.default_rng(seed)
    if sample is None or min(sample, FEW) <= n:
        return rng.permutation(n)[:sample]
    return np.concatenate([rng.permutation(n) for _ in range(-(-min(sample, FEW) // max(n, 1)))])


def check_columns(costs: Any) -> dict[str, npt.NDArray[np.int64]]:
    """The columns of a table, or of a mapping that is one.

    Raises:
        CostError: there are none, or they are not integers of one length.
    """
    columns = getattr(costs, "columns", costs)
    if not isinstance(columns, Mapping) or not columns:
        raise CostError(
            f"costs are a {type(costs).__name__}; pass a treepack.costs.CostTable, or integers [n] "
            "by name"
        )
    arrays = {str(name): np.asarray(column) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    is_flat = all(len(shape) == 1 for shape in shapes.values())
    if not is_flat or len(set(shapes.values())) > 1 or 0 in next(iter(shapes.values())):
        raise CostError(f"costs must be arrays [n] of one length above 0, got shapes {shapes}")
    for name, array in arrays.items():
        if array.dtype.kind not in "iu":
            raise CostError(f"cost column {name!r} must hold integers, got {array.dtype}")
    return arrays


def _check_counts(**counts: Sequence[int]) -> None:
    for name, values in counts.items():
        wrong = [value for value in values if not hasattr(value, "__index__") or value < 1]
        if wrong:
            raise CostError(f"{name} must be an integer of 1 or more, got {wrong[0]!r}")


def _check_budgets(budgets: Any, columns: Mapping[str, Any]) -> list[Mapping[str, int]]:
    """The sets of budgets, each of which a packer takes."""
    sets: list[Mapping[str, int]] = [budgets] if isinstance(budgets, Mapping) else list(budgets)
    if not sets:
        raise BudgetError("there are no budgets; give at least one set, such as {'tokens': 16_384}")
    for each in sets:
        missing = [name for name in each if name not in columns]
        if missing:
            raise BudgetError(f"no costs of the budgets {missing}; the columns are {list(columns)}")
        Packer(each)
    return sets


def _fitting(examples: Examples, budgets: Mapping[str, int]) -> Examples:
    fits = np.ones(len(examples.indices), bool)
    for name, budget in budgets.items():
        fits &= examples.costs[name] <= budget
    return examples if fits.all() else examples.take(np.flatnonzero(fits))


def _pack(
    examples: Examples,
    budgets: Mapping[str, int],
    pool_size: int,
    ranks: Iterable[int],
    settings: Mapping[str, Any],
) -> PoolOutcome:
    """Everything in order through one packer, and what came of it."""
    n, names = len(examples.indices), list(budgets)
    if not n:
        raise CostError(f"no example fits the budgets {dict(budgets)}; raise them")
    packer = Packer(budgets, pool_size, **settings)
    columns = [examples.costs[name].tolist() for name in names]
    rows: list[list[int]] = []
    waits: list[int] = []
    held = dict.fromkeys(names, 0)
    seen = {name: [0.0, 0] for name in names}

    def note(pack: Any) -> None:
        for name, cost in pack.cost.items():
            seen[name][0] += held[name]
            seen[name][1] = max(seen[name][1], held[name])
            held[name] -= cost
        rows.append(pack.keys)
        waits.extend(pack.waits)

    for key, values in enumerate(zip(*columns, strict=True)):
        cost = dict(zip(names, values, strict=True))
        for name, value in cost.items():
            held[name] += value
        pack = packer.push(key, cost)
        if pack is not None:
            note(pack)
    streamed = len(rows)
    for pack in packer.flush():
        note(pack)
    return _outcome(examples, budgets, pool_size, ranks, (rows, streamed, waits, seen))


def _outcome(
    examples: Examples,
    budgets: Mapping[str, int],
    pool_size: int,
    ranks: Iterable[int],
    packed: tuple[list[list[int]], int, list[int], dict[str, list[float]]],
) -> PoolOutcome:
    rows, streamed, waits, held = packed
    n, count = len(examples.indices), len(rows)
    sums = {name: float(examples.costs[name].sum()) for name in budgets}
    bound = max(sums[name] / budget for name, budget in budgets.items())
    branches = examples.branches
    each = step_costs(examples.weighed, rows)
    # The last packs are those of a pool that runs empty, which a stream has once.
    usual = each[:streamed] if streamed else each
    return PoolOutcome(
        budgets=dict(budgets),
        pool_size=pool_size,
        rows=count,
        over_bound=count / bound if bound else 1.0,
        fill={name: sums[name] / (count * budget) for name, budget in budgets.items()},
        examples_a_row=n / count,
        branches_a_row=None if branches is None else float(branches.sum()) / count,
        wait_mean=float(np.mean(waits)),
        wait_p99=int(np.quantile(waits, 0.99, method="higher")),
        wait_max=max(waits),
        resident={name: total / count for name, (total, _) in held.items()},
        resident_max={name: int(most) for name, (_, most) in held.items()},
        packs_per_million=1e6 * count / n,
        imbalance={int(r): imbalance(usual, int(r)) for r in ranks},
        balanced={int(r): imbalance(usual, int(r), Balance()) for r in ranks},
    )


def _frontier(
    examples: Examples, budgets: Mapping[str, int], settings: Mapping[str, Any]
) -> tuple[FrontierPoint, ...]:
    """The same examples with the scarcest budget smaller and larger; nothing if there is one."""
    if len(budgets) < 2:
        return ()
    means = {name: examples.costs[name].mean() / budget for name, budget in budgets.items()}
    binding = max(means, key=lambda name: means[name])
    second = max(value for name, value in means.items() if name != binding)
    largest = int(examples.costs[binding].max())
    # Beyond where another budget binds, there is nothing to gain.
    ends = min(max(1.5 * means[binding] / second, 1.5), 4.0) if second else 4.0
    wanted = [budgets[binding] * factor for factor in np.linspace(0.75, ends, 15)]
    values = {max(round_up(value), largest) for value in wanted} | {budgets[binding]}
    points: list[FrontierPoint] = []
    for value in sorted(values):
        outcome = _pack(examples, {**budgets, binding: value}, FRONTIER_POOL, (), settings)
        points.append(FrontierPoint(binding, value, outcome.examples_a_row, outcome.fill))
        if value > budgets[binding] and _gain(points) < PLATEAU:
            break
    return tuple(points)


def _gain(points: Sequence[FrontierPoint]) -> float:
    return points[-1].examples_a_row / points[-2].examples_a_row - 1


def _sampling_error(drawn: Examples, budgets: Mapping[str, int], n: int) -> float:
    """1.96 standard errors of the mean cost of the scarcest budget, relative."""
    m = len(drawn.indices)
    if m >= n or m < 2:
        return 0.0
    loads = {name: drawn.costs[name] / budget for name, budget in budgets.items()}
    costs = max(loads.values(), key=np.mean)
    mean = float(costs.mean())
    return 1.96 * float(costs.std(ddof=1)) / mean * math.sqrt((1 - m / n) / m) if mean else 0.0


def _histogram(costs: npt.NDArray[np.int64], budget: int) -> list[float]:
    counts, _ = np.histogram(costs, 24, (0, budget))
    return [float(count) / max(len(costs), 1) for count in counts]


def _with_advice(found: Simulation, table: Examples) -> Simulation:
    advice = advise(found.outcomes, found.frontier, table)
    return Simulation(**{**found.__dict__, "advice": advice})
