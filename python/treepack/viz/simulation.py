"""What a simulation found, as one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treepack.packing.report import Table, summary, tables
from treepack.packing.shares import percent
from treepack.viz.charts import Series, histogram, line_chart
from treepack.viz.markup import document, fold, said
from treepack.viz.style import SIMULATION

if TYPE_CHECKING:
    from treepack.packing.outcome import PoolOutcome
    from treepack.packing.simulation import Simulation


MOST_TABLES = 6
"""Tables that are seen before the others are unfolded."""


def save_simulation(
    found: Simulation, path: str | os.PathLike[str], *, title: str = "Packing, simulated"
) -> Path:
    """Write what `treepack.simulate` found as one page with plots.

    The page is one file without links to anything outside, for light and dark screens.

    Args:
        found: from `treepack.simulate`.
        path: of the file, which is replaced; its folder must exist.
        title: heading of the page.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile, treepack as tp
        >>> found = tp.simulate({"tokens": [300, 500, 900] * 50}, {"tokens": 2_048})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tp.viz.save_simulation(found, f"{folder}/simulation.html").name
        'simulation.html'
    """
    target = Path(path)
    target.write_text(simulation_html(found, title), encoding="utf-8")
    return target


def simulation_html(found: Simulation, title: str = "Packing, simulated") -> str:
    """The page of `save_simulation`.

    Args:
        found: from `treepack.simulate`.
        title: heading of the page.

    Returns:
        An HTML document.
    """
    told = found.to_dict()
    advice = "".join(f'<li class="{each.kind}">{said(each.text)}</li>' for each in found.advice)
    charts = "".join(
        f"<section><h3>{said(name)}</h3>{chart}</section>" for name, chart in _charts(found)
    )
    numbers = fold([*map(_table, tables(told))], MOST_TABLES)
    parts = (
        f'<h1>{said(title)}</h1><p class="facts">{said(summary(told))}</p>',
        f'<h2>Advice</h2><ul class="advice">{advice}</ul>',
        f'<h2>Plots</h2><div class="charts">{charts}</div>',
        f'<h2>Numbers</h2><div class="tables">{numbers}</div>',
    )
    return document(title, SIMULATION, "".join(parts))


def _charts(found: Simulation) -> Iterator[tuple[str, str]]:
    sets = list(dict.fromkeys(_named(outcome) for outcome in found.outcomes))
    groups = {name: [o for o in found.outcomes if _named(o) == name] for name in sets}
    first = groups[sets[0]]
    pools = [f"{outcome.pool_size:,}" for outcome in first]
    yield _lines(
        "Rows over the volume bound",
        pools,
        [Series(name, [o.over_bound for o in group]) for name, group in groups.items()],
        "pool size",
        digits=3,
    )
    yield from _frontier(found)
    yield _lines(
        "What waits in the pool, in rows of it",
        pools,
        [
            Series(name, [o.resident[name] / budget for o in first])
            for name, budget in first[0].budgets.items()
        ],
        "pool size",
        digits=1,
        least=0.0,
    )
    yield from _imbalance(first)
    for name, shares in found.histograms.items():
        budget = first[0].budgets[name]
        title = f"Examples by {name}"
        yield title, histogram(shares, budget, f"{name}, up to the budget", title)


def _frontier(found: Simulation) -> Iterator[tuple[str, str]]:
    if not found.frontier:
        return
    points, now = found.frontier, found.outcomes[0].budgets
    name = points[0].budget
    labels = [f"{point.value:,}" for point in points]
    values = [point.value for point in points]
    marked = values.index(now[name]) if now[name] in values else None
    axis = f"budget of {name}; dashed: now"
    yield _lines(
        "Examples a row",
        labels,
        [Series("examples", [point.examples_a_row for point in points])],
        axis,
        digits=1,
        marked=marked,
    )
    yield _lines(
        "How full the budgets are",
        labels,
        [Series(each, [point.fill[each] for point in points]) for each in points[0].fill],
        axis,
        show=percent,
        most=1.0,
        marked=marked,
    )


def _imbalance(first: list[PoolOutcome]) -> Iterator[tuple[str, str]]:
    known = [ranks for ranks in first[0].imbalance if first[0].imbalance[ranks] is not None]
    if known:
        yield _lines(
            "How much longer the slowest rank takes",
            [f"{ranks:,}" for ranks in known],
            [
                Series(f"pool {o.pool_size}", [o.imbalance[ranks] for ranks in known])
                for o in (first[0], first[-1])[: len(first)]
            ],
            "ranks",
            show=percent,
            least=0.0,
        )


def _lines(name: str, *arguments: Any, **options: Any) -> tuple[str, str]:
    return name, line_chart(*arguments, name=name, **options)


def _named(outcome: PoolOutcome) -> str:
    return ", ".join(f"{name}={budget:,}" for name, budget in outcome.budgets.items())


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col">{said(name).replace(" ", "<br>")}</th>' for name in table.header
    )
    lines = "".join(f"<tr>{_cells(table.header, line)}</tr>" for line in table.lines)
    return (
        f'<section class="table"><h3>{said(table.title)}</h3><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></section>"
    )


def _cells(header: Sequence[str], line: Sequence[str]) -> str:
    # Where the page is narrow each cell tells its column.
    cells = zip(header, line, strict=True)
    return "".join(f'<td data-name="{said(name)}">{said(cell)}</td>' for name, cell in cells)
