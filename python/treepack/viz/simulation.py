"""What a simulation found, as one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from treepack.packing.report import Table, summary, tables
from treepack.viz.charts import Series, histogram, line_chart

if TYPE_CHECKING:
    from treepack.packing.outcome import PoolOutcome
    from treepack.packing.simulation import Simulation

CSS = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #5f6775; --paper: #ffffff;
  --line: #e4e7ec; --card: #f6f7f9; --c0: #3f68c9; --c1: #d9822b; --c2: #2f9e6e; --c3: #c2478f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #9aa3b2; --paper: #14171c;
  --line: #2b313b; --card: #1c2027; --c0: #7b9df0; --c1: #eba45f; --c2: #5fc79a;
  --c3: #e07db8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 40px 32px 64px; max-width: 1240px; color: var(--ink);
  background: var(--paper);
  font: 15px/1.5 ui-sans-serif, system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 26px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 40px 0 12px; font-size: 13px; font-weight: 600; letter-spacing: 0.06em;
  text-transform: uppercase; color: var(--soft); }
h3 { margin: 0 0 8px; font-size: 14px; font-weight: 600; }
.facts { margin: 6px 0 0; color: var(--soft); }
.advice { margin: 0; padding: 0; list-style: none; display: grid; gap: 10px; }
.advice li { padding: 12px 16px; border-left: 4px solid var(--c0); border-radius: 4px;
  background: var(--card); overflow-wrap: anywhere; }
.advice .raise, .advice .lower { border-color: var(--c2); }
.advice .oversize, .advice .unmeasured { border-color: var(--c1); }
.charts { display: grid; gap: 32px; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
.charts section { min-width: 0; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); }
.mark { stroke: var(--soft); stroke-dasharray: 3 3; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 6px; color: var(--soft);
  font-size: 13px; }
.legend span::before { content: ""; display: inline-block; width: 11px; height: 11px;
  margin-right: 7px; border-radius: 2px; background: var(--c); }
.scroll { overflow-x: auto; margin-bottom: 28px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: right; white-space: nowrap; }
th { font-weight: 500; font-size: 13px; color: var(--soft); vertical-align: bottom; }
tbody tr { border-top: 1px solid var(--line); }
@media (max-width: 480px) { body { padding: 24px 16px 40px; }
  .charts { grid-template-columns: minmax(0, 1fr); } }
"""


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
    advice = "".join(f'<li class="{each.kind}">{escape(each.text)}</li>' for each in found.advice)
    charts = "".join(
        f"<section><h3>{escape(name)}</h3>{chart}</section>" for name, chart in _charts(found)
    )
    parts = (
        f'<h1>{escape(title)}</h1><p class="facts">{escape(summary(told))}</p>',
        f'<h2>Advice</h2><ul class="advice">{advice}</ul>',
        f'<h2>Plots</h2><div class="charts">{charts}</div>',
        f"<h2>Numbers</h2>{''.join(map(_table, tables(told)))}",
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{CSS}</style>"
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _charts(found: Simulation) -> Iterator[tuple[str, str]]:
    sets = list(dict.fromkeys(_named(outcome) for outcome in found.outcomes))
    groups = {name: [o for o in found.outcomes if _named(o) == name] for name in sets}
    first = groups[sets[0]]
    pools = [f"{outcome.pool_size:,}" for outcome in first]
    yield (
        "Rows over the volume bound",
        line_chart(
            pools,
            [Series(name, [o.over_bound for o in group]) for name, group in groups.items()],
            "pool size",
            lambda value: f"{value:.3f}",
        ),
    )
    yield from _frontier(found)
    yield (
        "What waits in the pool, in rows of it",
        line_chart(
            pools,
            [
                Series(name, [o.resident[name] / budget for o in first])
                for name, budget in first[0].budgets.items()
            ],
            "pool size",
            lambda value: f"{value:.0f}",
            least=0.0,
        ),
    )
    yield from _imbalance(first)
    for name, shares in found.histograms.items():
        budget = first[0].budgets[name]
        yield f"Examples by {name}", histogram(shares, budget, f"{name}, up to the budget")


def _frontier(found: Simulation) -> Iterator[tuple[str, str]]:
    if not found.frontier:
        return
    points, now = found.frontier, found.outcomes[0].budgets
    name = points[0].budget
    labels = [f"{point.value:,}" for point in points]
    values = [point.value for point in points]
    marked = values.index(now[name]) if now[name] in values else None
    axis = f"budget of {name}; dashed: now"
    yield (
        "Examples a row",
        line_chart(
            labels,
            [Series("examples", [point.examples_a_row for point in points])],
            axis,
            lambda value: f"{value:.1f}",
            marked=marked,
        ),
    )
    yield (
        "How full the budgets are",
        line_chart(
            labels,
            [Series(each, [point.fill[each] for point in points]) for each in points[0].fill],
            axis,
            lambda value: f"{value:.0%}",
            most=1.0,
            marked=marked,
        ),
    )


def _imbalance(first: list[PoolOutcome]) -> Iterator[tuple[str, str]]:
    known = [ranks for ranks in first[0].imbalance if first[0].imbalance[ranks] is not None]
    if known:
        yield (
            "How much longer the slowest rank takes",
            line_chart(
                [f"{ranks:,}" for ranks in known],
                [
                    Series(f"pool {o.pool_size}", [o.imbalance[ranks] for ranks in known])
                    for o in (first[0], first[-1])[: len(first)]
                ],
                "ranks",
                lambda value: f"{value:.0%}",
                least=0.0,
            ),
        )


def _named(outcome: PoolOutcome) -> str:
    return ", ".join(f"{name}={budget:,}" for name, budget in outcome.budgets.items())


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name).replace(' ', '<br>')}</th>" for name in table.header)
    lines = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in table.lines
    )
    return (
        f'<h3>{escape(table.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )
