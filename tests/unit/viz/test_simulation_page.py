"""Does the page of a simulation show what was found, whole and by itself?"""

from __future__ import annotations

import itertools
import re
from html import unescape
from xml.etree import ElementTree

import pytest
import treepack as tp
from treepack.packing import mixture_sft
from treepack.packing.shares import percent
from treepack.viz.charts import Series, histogram, line_chart, number
from treepack.viz.simulation import simulation_html

STREAM = mixture_sft.generate("sft", 2_000)
FOUND = tp.simulate(STREAM, mixture_sft.BUDGETS, pool_sizes=[8, 48])
ONE = tp.simulate({"tokens": [7] * 30}, {"tokens": 32}, pool_sizes=[4], ranks=[10**6])


@pytest.mark.parametrize("found", [FOUND, ONE], ids=["two budgets", "one budget"])
def test_the_page_holds_advice_charts_and_tables(found):
    page = simulation_html(found, "Packing <mine>")
    assert "Packing &lt;mine&gt;" in page
    assert "http" not in page
    assert "nan" not in page.lower()
    text = unescape(re.sub(r"<[^>]*>", "", page))
    assert all(advice.text in text for advice in found.advice)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    # Rows and the pool always; then two of the frontier, one of ranks, one for each budget.
    charts = 2 + len(found.outcomes[0].budgets) + 2 * bool(found.frontier) + (found is FOUND)
    assert page.count("<svg") == charts
    for outcome in found.outcomes:
        assert f"{outcome.over_bound:.4f}" in text


def places(chart, tag, name):
    return [float(x) for x in re.findall(rf'<{tag}[^>]* {name}="([\d.]+)"', chart)]


def test_a_line_is_higher_where_its_value_is():
    chart = line_chart(["a", "b", "c"], [Series("x", [1.0, 3.0, None])], "axis", digits=1)
    assert len(places(chart, "circle", "cy")) == 2
    low, high = places(chart, "circle", "cy")
    assert low > high
    assert "x, b: 3.0" in chart


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 1.0], [1e-9, 5e6], [1.0199, 1.0226]])
def test_every_dot_lies_between_the_lines_of_the_grid(values):
    chart = line_chart(["a", "b"], [Series("x", values)], "axis")
    lines = places(chart, 'line class="grid"', "y1")
    assert 3 <= len(lines) <= 12
    assert all(min(lines) <= y <= max(lines) + 40 for y in places(chart, "circle", "cy"))


def test_bars_are_as_high_as_their_shares():
    chart = histogram([0.5, 0.25, 0.0, 0.25], 128, "crops")
    heights = places(chart, "rect", "height")
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)
    assert heights[2] == 0
    assert "0 to 32: 50.0%" in chart


@pytest.mark.parametrize("show", [number, percent])
@pytest.mark.parametrize("ends", [(0, 0.004), (0.991, 1.0), (0, 1.4), (1.0199, 1.0226), (3, 40)])
def test_lines_of_the_grid_are_told_apart_by_their_numbers(show, ends):
    chart = line_chart(["a", "b"], [Series("x", ends)], "axis", show=show)
    told = re.findall(r'text-anchor="end">([^<]*)<', chart)
    numbers = [float(text.strip("%").replace(",", "")) for text in told]
    steps = [before - after for before, after in itertools.pairwise(numbers)]
    assert len(numbers) >= 3
    assert min(steps) > 0
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)
