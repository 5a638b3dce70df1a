"""What to change, in words and numbers, from what a simulation found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from treepack.options import AdviceKind
from treepack.packing.examples import Examples
from treepack.packing.outcome import FrontierPoint, PoolOutcome
from treepack.packing.shares import percent

FULL = 0.9
"""A budget that is at least so full is not called idle."""

ENOUGH = 0.98
"""Of what a larger budget could give at most, what is enough."""

POOL_TOLERANCE = 0.002


@dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Attributes:
        kind: ``"binding"``, ``"raise"``, ``"lower"``, ``"oversize"``, ``"unmeasured"``, ``"pool"``
            or ``"ranks"``.
        text: what to do and why, one or two sentences.
        numbers: what the text says, by name.
    """

    kind: AdviceKind
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)


def advise(
    outcomes: Sequence[PoolOutcome], frontier: Sequence[FrontierPoint], table: Examples
) -> tuple[Advice, ...]:
    """All that can be said about the first set of budgets, the most important first."""
    first = [outcome for outcome in outcomes if outcome.budgets == outcomes[0].budgets]
    best = min(first, key=lambda outcome: (outcome.packs_per_million, outcome.pool_size))
    return (
        *_binding(best),
        *_balance(best, frontier, table),
        *_oversize(best, table),
        *_unmeasured(table),
        *_pool(first, best),
        *_ranks(best),
    )


def _binding(best: PoolOutcome) -> Iterator[Advice]:
    name = best.binding
    others = ", ".join(f"{other} {percent(fill)}" for other, fill in _others(best))
    text = f"The budget that binds is {name}, {percent(best.fill[name])} full"
    text += f" (the others: {others}). " if others else ". "
    text += (
        f"A row holds {best.examples_a_row:.1f} examples; there are "
        f"{_percent(best.over_bound - 1)} more rows than the volume of the examples takes."
    )
    numbers = {"budget": name, "fill": best.fill, "examples_a_row": best.examples_a_row}
    yield Advice("binding", text, numbers)


def _balance(
    best: PoolOutcome, frontier: Sequence[FrontierPoint], table: Examples
) -> Iterator[Advice]:
    """How no budget lies idle: the one that binds is raised, or the others are lowered."""
    ways = [*_raise(best, frontier), *_lower(best, table)]
    if best.binding == "tokens":
        # Longer rows gain nothing by themselves; memory that is never used is lost.
        ways.reverse()
    for place, way in enumerate(ways):
        text = way.text if place == 0 else f"Or {way.text[0].lower()}{way.text[1:]}"
        yield Advice(way.kind, text, way.numbers)


def _others(best: PoolOutcome) -> list[tuple[str, float]]:
    return [(name, fill) for name, fill in best.fill.items() if name != best.binding]


def _raise(best: PoolOutcome, frontier: Sequence[FrontierPoint]) -> Iterator[Advice]:
    """The smallest value of the budget that binds with which another one is as full."""
    name = best.binding
    points = [point for point in frontier if point.budget == name]
    now = next((point for point in points if point.value == best.budgets[name]), None)
    if now is None or all(fill >= FULL for _, fill in _others(best)):
        return
    most = max(point.examples_a_row for point in points)
    chosen = next(p for p in points if p.examples_a_row >= ENOUGH * most)
    gain = chosen.examples_a_row / now.examples_a_row - 1
    if chosen.value <= now.value or gain < 0.01:
        return
    fills = ", ".join(f"{other} {percent(fill)}" for other, fill in chosen.fill.items())
    text = (
        f"Raise {name} from {now.value:,} to {chosen.value:,}: {_percent(gain)} more examples a "
        f"row ({chosen.examples_a_row:.1f} instead of {now.examples_a_row:.1f}), and no budget "
        f"lies idle ({fills} full). A row then takes the memory of {chosen.value - now.value:,} "
        f"more {name}."
    )
    numbers = {
        "budget": name,
        "from": now.value,
        "to": chosen.value,
        "gain": gain,
        "fill": chosen.fill,
    }
    yield Advice("raise", text, numbers)


def _lower(best: PoolOutcome, table: Examples) -> Iterator[Advice]:
    """Budgets that are idle, and how small they may be."""
    for name, fill in _others(best):
        # A little room is needed, else this one binds, too.
        wanted = round_up(best.budgets[name] * min(1.0, fill * 1.03))
        floor = table.largest[name]
        if fill >= FULL or wanted >= 0.98 * best.budgets[name]:
            continue
        numbers: dict[str, Any] = {"budget": name, "from": best.budgets[name], "fill": fill}
        if floor > wanted and floor <= best.budgets[name]:
            text = (
                f"Lower {name} to {wanted:,}, since rows use {percent(fill)} of them; but the "
                f"largest example has {floor:,}, and those over {wanted:,} would have to be left "
                "out or shortened."
            )
            yield Advice("lower", text, {**numbers, "to": wanted, "largest": floor})
            continue
        text = (
            f"Lower {name} from {best.budgets[name]:,} to {wanted:,}: rows use {percent(fill)} of "
            "them, so about as many examples fit, and a row takes less memory."
        )
        yield Advice("lower", text, {**numbers, "to": wanted})


def _oversize(best: PoolOutcome, table: Examples) -> Iterator[Advice]:
    count = len(table.oversize)
    if not count:
        return
    over = ", ".join(f"{n:,} of {name}" for name, n in table.over.items() if n)
    worst = [int(index) for index in table.oversize[:5]]
    needed = {
        name: table.largest[name]
        for name in best.budgets
        if table.largest[name] > best.budgets[name]
    }
    needs = ", ".join(f"{name}={value:,}" for name, value in needed.items())
    text = (
        f"{count:,} of {table.total:,} examples ({_percent(count / table.total)}) exceed a budget "
        f"({over}) and are left out here. The largest are examples {', '.join(map(str, worst))}; "
        f"all would fit with {needs}."
    )
    if table.branchy:
        text += f' {table.branchy:,} have several branches; oversize="split" makes trees that fit.'
    numbers = {"count": count, "by_budget": table.over, "largest": worst, "needed": needed}
    yield Advice("oversize", text, numbers)


def _unmeasured(table: Examples) -> Iterator[Advice]:
    if table.unmeasured:
        text = (
            f"{table.unmeasured:,} of {table.total:,} examples have no costs, because they could "
            "not be measured, and are left out here; training raises or skips them (on_error)."
        )
        yield Advice("unmeasured", text, {"count": table.unmeasured})


def _pool(first: Sequence[PoolOutcome], best: PoolOutcome) -> Iterator[Advice]:
    if len(first) < 2:
        return
    limit = best.packs_per_million * (1 + POOL_TOLERANCE)
    good = [outcome for outcome in first if outcome.packs_per_million <= limit]
    enough = min(good, key=lambda outcome: outcome.pool_size)
    held = " and ".join(f"{value:,.0f} {name}" for name, value in enough.resident.items())
    text = (
        f"A pool of {enough.pool_size} is enough: it makes at most {_percent(POOL_TOLERANCE)} "
        f"more rows than the best of the pools tried. It holds {held} on average; if examples are "
        "loaded before they are selected, that is what lies in memory."
    )
    yield Advice("pool", text, {"pool_size": enough.pool_size, "resident": enough.resident})


def _ranks(best: PoolOutcome) -> Iterator[Advice]:
    known = {ranks: share for ranks, share in best.imbalance.items() if share is not None}
    if known:
        shares = ", ".join(f"{_percent(share)} with {ranks}" for ranks, share in known.items())
        text = (
            "In each step, ranks wait for the slowest one, which takes longer than the average by "
            f"{shares} ranks (estimated from tokens, media and attention)."
        )
        dealt = {ranks: share for ranks, share in best.balanced.items() if share is not None}
        if dealt:
            shares = ", ".join(f"{_percent(share)} with {ranks}" for ranks, share in dealt.items())
            text += f" Packs dealt by tp.Balance bring that to {shares}."
        yield Advice("ranks", text, {"imbalance": known, "balanced": dealt})


def round_up(value: float) -> int:
    """The next number that one would write down: few binary digits, and a multiple of 8."""
    step: int = max(8, 1 << max(int(value).bit_length() - 5, 0))
    return max(1, math.ceil(value / step)) * step


def _percent(share: float) -> str:
    return percent(share, 1 if share < 0.0995 else 0)
