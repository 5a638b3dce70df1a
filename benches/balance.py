"""How long ranks wait for the slowest one, with and without a balance: mean of max / mean - 1.

    python benches/balance.py

Packs of the fine-tuning mixture, in a seeded order; what a row takes is the linear model of
``tp.simulate``: tokens, crops and attention pairs. The rival is the order as it is.
"""

from __future__ import annotations

import time

import numpy as np
import treepack as tp
from common import machine
from treepack.packing import mixture_sft
from treepack.packing.balance import UNITS, arrange, imbalance
from treepack.packing.examples import step_costs, weighed

STEPS = 60
RANKS = (8, 16, 64, 256, 1024)
WAYS = (
    tp.Balance(),
    tp.Balance(window=8),
    tp.Balance(accumulate=4),
    tp.Balance(accumulate=4, sync="micro"),
)


def packs_of_mixture(count: int) -> np.ndarray:
    """What each of so many packs of the mixture takes, in milliseconds."""
    stream = mixture_sft.generate("sft", 4 * count, seed=3)
    vision = np.minimum(83 * stream.crops, stream.tokens)
    columns = {"tokens": stream.tokens, "crops": stream.crops, "vision_tokens": vision}
    columns["branches"] = np.full(len(vision), 3)
    packs = tp.pack({name: columns[name] for name in mixture_sft.BUDGETS}, mixture_sft.BUDGETS)
    return step_costs(weighed(columns, {}), [members.tolist() for members in packs])


def dealing(costs: np.ndarray, ranks: int, balance: tp.Balance) -> float:
    """Microseconds a pack to deal a window."""
    units = np.rint(costs * UNITS).astype(np.int64)
    size = ranks * balance.accumulate * balance.window
    start = time.perf_counter()
    for first in range(0, len(costs) - size, size):
        arrange(units[first : first + size], ranks, balance, 0, first)
    return 1e6 * (time.perf_counter() - start) / (len(costs) // size * size)


def main() -> None:
    print(machine.describe())
    costs = packs_of_mixture(STEPS * max(RANKS))
    print(f"\n{len(costs):,} packs; the slowest rank takes longer than the mean, in %")
    names = [f"{b.accumulate} x, window {b.window}, {b.sync}" for b in WAYS]
    print(f"{'ranks':>6}" + "".join(f"{name:>26}" for name in names))
    for ranks in RANKS:
        found = []
        for balance in WAYS:
            # As many packs for each, so that they are of the same steps.
            some = costs[: STEPS * ranks * balance.accumulate]
            plain = unbalanced(some, ranks, 1 if balance.sync == "micro" else balance.accumulate)
            found.append(f"{plain:.1%} -> {imbalance(some, ranks, balance):.2%}")
        print(f"{ranks:6}" + "".join(f"{each:>26}" for each in found))
    each = ", ".join(f"{dealing(costs[:20_000], 64, balance):.1f}" for balance in WAYS)
    print(f"\ndealing, us a pack, 64 ranks: {each}")


def unbalanced(costs: np.ndarray, ranks: int, each: int) -> float:
    """The same in the order given, with so many packs of each rank added up."""
    loads = costs[: len(costs) // (ranks * each) * ranks * each].reshape(-1, each, ranks).sum(1)
    return float((loads.max(1) / loads.mean(1) - 1).mean())


if __name__ == "__main__":
    main()
