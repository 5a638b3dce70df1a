"""Test vectors with which the Rust tests check the core: what the reference implementations give.

    python -m helpers.core_vectors    # from tests/, writes them again

`cargo test` needs no Python, so the exact packs and plans are kept in two text files. Here they
are written and read; `tests/property/test_vectors.py` checks that they are what the reference
implementations give, `rust/treepack-core/tests` that the core gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from helpers.random_masks import Forest, random_forest
from treepack._reference.mask import ReferenceMask
from treepack._reference.packing import ReferencePacker
from treepack._reference.plan import build_plan, build_window_plan

FOLDER = Path(__file__).parents[2] / "rust" / "treepack-core" / "tests" / "vectors"
SETTINGS = ("pool_size", "early", "solver", "anchors", "steps", "gamma", "age")


class PackCase(NamedTuple):
    """A stream, and the arrivals at which packs go: the number of the arrival and the keys."""

    budgets: list[int]
    settings: dict[str, Any]
    costs: list[list[int]]


class PlanCase(NamedTuple):
    """A row and a window, 0 for none."""

    row: Forest
    window: int


# ---- what the reference implementations give


def make_packs(case: PackCase) -> list[tuple[int, list[int]]]:
    """The packs of a stream, those of the flush after its last arrival."""
    names = [f"b{d}" for d in range(len(case.budgets))]
    packer = ReferencePacker(dict(zip(names, case.budgets, strict=True)), **case.settings)
    packs = []
    for key, cost in enumerate(case.costs):
        keys = packer.push(key, dict(zip(names, cost, strict=True)))
        if keys is not None:
            packs.append((key, keys))
    return packs + [(len(case.costs), keys) for keys in packer.flush()]


def make_plan(case: PlanCase) -> tuple[list[int], list[int]]:
    """Entries and host table."""
    mask = ReferenceMask(*case.row)
    parts = build_window_plan(mask, case.window) if case.window else build_plan(mask)
    return parts[0].tolist(), parts[1].tolist()


# ---- the files


def write_packs(cases: list[PackCase]) -> str:
    """One line for the packer, one for the costs, one for the packs."""
    lines = []
    for case in cases:
        settings = " ".join(f"{name}={_word(case.settings[name])}" for name in SETTINGS)
        lines.append(f"budgets={_join(case.budgets)} {settings}")
        lines.append(" ".join(map(_join, case.costs)))
        lines.append(" ".join(f"{at}:{_join(keys)}" for at, keys in make_packs(case)))
    return "\n".join(lines) + "\n"


def read_packs(text: str) -> Iterator[tuple[PackCase, list[tuple[int, list[int]]]]]:
    """Each stream with its packs."""
    lines = text.splitlines()
    for first, costs, packs in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        fields = dict(field.split("=") for field in first.split())
        settings = {name: _value(fields[name]) for name in SETTINGS}
        case = PackCase(_split(fields["budgets"]), settings, [*map(_split, costs.split())])
        pairs = (pack.split(":") for pack in packs.split())
        yield case, [(int(at), _split(keys)) for at, keys in pairs]


def write_plans(cases: list[PlanCase]) -> str:
    """One line for the row, one for the entries, one for the host table."""
    lines = []
    for row, window in cases:
        runs = ";".join(map(_join, row.image_runs.tolist()))
        lines.append(
            f"lengths={_join(row.lengths)} parents={_join(row.parents)} runs={runs} "
            f"mode={row.bidirectional} total={row.total} window={window}"
        )
        lines += [" ".join(map(str, part)) for part in make_plan(PlanCase(row, window))]
    return "\n".join(lines) + "\n"


def read_plans(text: str) -> Iterator[tuple[PlanCase, tuple[list[int], list[int]]]]:
    """Each row with its plan."""
    lines = text.splitlines()
    for first, entries, host in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        fields = dict(field.split("=") for field in first.split())
        lengths, parents = (np.array(_split(fields[name])) for name in ("lengths", "parents"))
        runs = [_split(run) for run in fields["runs"].split(";") if run]
        runs = np.array(runs, int).reshape(-1, 3)
        row = Forest(lengths, parents, runs, fields["mode"], int(fields["total"]))
        plan = [int(n) for n in entries.split()], [int(n) for n in host.split()]
        yield PlanCase(row, int(fields["window"])), plan


def _join(numbers: Any) -> str:
    return ",".join(map(str, numbers))


def _split(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _value(word: str) -> Any:
    return int(word) if word.isdigit() else word


# ---- which cases


def draw_packs(rng: np.random.Generator) -> Iterator[PackCase]:
    """Streams that reach every branch of the search: each setting, width and end of its steps."""
    plain = {"early": False, "solver": "anchors", "anchors": 8, "steps": 4_000, "gamma": 16}
    plain = {"pool_size": 48, **plain, "age": 16}
    for budgets, n, changed in (
        ([16_384, 128], 260, {}),
        ([16_384, 128], 200, {"steps": 300}),
        ([16_384, 128], 200, {"early": True, "pool_size": 24}),
        ([16_384, 128], 120, {"solver": "first_fit", "pool_size": 12}),
        ([16_384, 128], 160, {"anchors": 1, "gamma": 0, "age": 4_096, "pool_size": 20}),
        ([128, 16_384], 160, {"anchors": 3, "gamma": 900, "age": 0, "pool_size": 30}),
        ([1_000_000], 160, {"pool_size": 32}),
        ([20_000, 20_000, 20_000], 160, {"pool_size": 40}),
        ([1 << 31, 3, 1 << 20, 512, 4_096, 64], 160, {"pool_size": 32}),
        ([1 << 31] * 12, 60, {"pool_size": 16}),
        ([40], 120, {"pool_size": 24}),
        ([60, 7], 120, {"pool_size": 24, "steps": 40}),
        ([4_096, 64], 90, {"pool_size": 1}),
    ):
        settings = {**plain, **changed}
        yield PackCase(budgets, settings, [_cost(rng, budgets) for _ in range(n)])
    for pool_size in (5, 7, 7, 7, 7, 7):
        settings = {**plain, "pool_size": pool_size, "gamma": 900, "age": 0}
        yield PackCase([1_000, 1_000], settings, [_halves(rng) for _ in range(160)])
    for pool_size in (60, 96):
        settings = {**plain, "pool_size": pool_size}
        yield PackCase([16_384, 128], settings, [_cost(rng, [16_384, 128]) for _ in range(260)])


def _halves(rng: np.random.Generator) -> list[int]:
    """Halves, which go well together, and crumbs, which stay until they have waited enough."""
    if rng.random() < 0.2:
        return rng.integers(1, 60, 2).tolist()
    return [int(rng.choice([500, 500, 400, 600])), int(rng.choice([500, 450, 550]))]


def _cost(rng: np.random.Generator, budgets: list[int]) -> list[int]:
    """Often a small share of every budget, sometimes a large one, sometimes none of one."""
    share = rng.beta(0.8, 3.0) * rng.uniform(0.4, 1.6, len(budgets))
    cost = [min(int(b * s), b) for b, s in zip(budgets, share, strict=True)]
    if rng.random() < 0.2:
        cost[rng.integers(len(cost))] = 0
    return cost if any(cost) else [1, *cost[1:]]


def draw_plans(rng: np.random.Generator) -> Iterator[PlanCase]:
    """Rows of every shape, a third of them under a window."""
    for number in range(60):
        row = random_forest(rng, longest=7, most_nodes=12)
        yield PlanCase(row, int(rng.integers(1, 9)) if number % 3 == 2 else 0)


def main() -> None:
    """Write both files."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "packs.txt").write_text(write_packs([*draw_packs(np.random.default_rng(1))]))
    (FOLDER / "plans.txt").write_text(write_plans([*draw_plans(np.random.default_rng(2))]))


if __name__ == "__main__":
    main()
