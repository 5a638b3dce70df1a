"""Every number in docs/reference/plan.md is the one that the code gives."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from treepack import _core
from treepack._reference.plan import count_pairs
from treepack.attention.plan import HostCall, read_host

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "plan.md").read_text()
PLAIN, WINDOWED = PAGE.split("## Under a sliding window")
LETTERS = {
    _core.SELF: "S",
    _core.CROSS: "C",
    _core.ANTI_CAUSAL: "A",
    _core.ANTI_CAUSAL_GATHERED: "G",
    _core.WINDOW: "W",
}


def make_mask():
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], names)
    return names["mask"]


def make_plan(part):
    mask = make_mask()
    if part is PLAIN:
        return mask.plan()
    return _core.window_plan(mask, int(re.search(r"window_plan\(mask, (\d+)\)", part)[1]))


def tables(part):
    """The tables of the page: lists of cells, the heading first."""
    found = re.findall(r"(?:^\|.*\|\n)+", part, re.MULTILINE)
    lines = [[line.strip("|").split("|") for line in table.splitlines()] for table in found]
    return [[[cell.strip(" `") for cell in line] for line in (t[0], *t[2:])] for t in lines]


def table(part, first):
    """The table with this cell at its beginning."""
    (found,) = [t for t in tables(part) if t[0][0] == first]
    return found


def drawing(entries, host):
    """The matrix with a letter for the kind of call that computes a pair."""
    header, calls = host[: len(_core.PLAN_HEADER)], list(read_host(host.tolist()))
    total = int(header[_core.PLAN_HEADER.index("total")])
    letters = np.full((total, total), ".")
    for call in calls:
        alone = np.concatenate([[1, *header[1:]], call]).astype(np.int32)
        letters[count_pairs(entries, alone) > 0] = LETTERS[call.kind]
    lines = [f"{q:2}   " + "  ".join(line) for q, line in enumerate(letters)]
    return "\n".join(["    " + " ".join(f"{k:2}" for k in range(total)), *lines]) + "\n"


def arrays(entries, call):
    """The arrays of a call by offset: their names and numbers."""
    found = {}
    for side, length in (("q", call.q_len), ("k", call.k_len)):
        offset = getattr(call, f"off_cu_{side}")
        numbers = entries[offset : offset + call.n_seg + 1].tolist()
        found.setdefault(offset, ([], numbers))[0].append(f"cu_{side}")
        if offset := getattr(call, f"off_{side}_index"):
            found[offset] = [f"{side}_index"], entries[offset : offset + length].tolist()
    return found


def test_the_nodes_are_those_of_the_mask():
    mask = make_mask()
    columns = (mask.subtree_end, mask.node_parent, mask.node_depth, mask.node_example)
    tokens = [f"{a} .. {b}" for a, b in zip(mask.node_start, mask.node_end, strict=True)]
    expected = [
        [str(node), own, *map(str, rest)]
        for node, (own, *rest) in enumerate(zip(tokens, *columns, strict=True))
    ]
    assert table(PLAIN, "node")[1:] == expected


def test_the_vectors_are_those_of_the_mask():
    mask = make_mask()
    (heading, *vectors) = table(PLAIN, "vector")
    assert heading[1:] == [str(token) for token in range(mask.total)]
    for name, *numbers in vectors:
        assert list(map(int, numbers)) == getattr(mask, name).tolist(), name


@pytest.mark.parametrize("part", [PLAIN, WINDOWED], ids=["plain", "window"])
def test_the_matrix_is_what_the_calls_compute(part):
    assert re.search(r"```text\n(.*?)```", part, re.DOTALL)[1] == drawing(*make_plan(part))


@pytest.mark.parametrize("part", [PLAIN, WINDOWED], ids=["plain", "window"])
def test_the_host_table_is_that_of_the_plan(part):
    _, host = make_plan(part)
    shown_header, shown_calls = table(part, "n_calls"), table(part, "kind")
    assert tuple(shown_header[0]) == _core.PLAN_HEADER
    assert tuple(shown_calls[0]) == _core.PLAN_FIELDS
    shown = [number for line in (*shown_header[1:], *shown_calls[1:]) for number in line]
    assert list(map(int, shown)) == host.tolist()


@pytest.mark.parametrize("part", [PLAIN, WINDOWED], ids=["plain", "window"])
def test_the_arrays_are_those_of_the_entries(part):
    entries, host = make_plan(part)
    expected = [
        [str(number), "`, `".join(names), str(offset), " ".join(map(str, numbers))]
        for number, call in enumerate(read_host(host.tolist()))
        for offset, (names, numbers) in sorted(arrays(entries, call).items())
    ]
    assert table(part, "call")[1:] == expected


def test_the_fields_and_kinds_are_those_of_the_core():
    def named(first):
        return [name for line in table(PLAIN, first)[1:] for name in line[0].split("`, `")]

    assert tuple(named("header")) == _core.PLAN_HEADER
    assert tuple(named("field of a call")) == _core.PLAN_FIELDS
    kinds = {int(number): name for number, name, _ in table(PLAIN, "number")[1:]}
    assert kinds == {getattr(_core, name): name for name in kinds.values()}
    assert list(kinds) == list(LETTERS)
    assert f"`PLAN_ALIGN` entries ({_core.PLAN_ALIGN}," in PAGE


def test_python_reads_the_fields_in_the_order_of_the_core():
    assert HostCall._fields == _core.PLAN_FIELDS
