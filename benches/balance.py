"""How long ranks wait for the slowest one, with and without a balance: mean of max / mean - 1.

    python benches/balance.py

Packs of the fine-tuning mixture, made on the fly by a pool of 48 or ahead by ``tp.pack``, over 60
steps of each number of ranks; what a row takes is the linear model of ``tp.simulate``: tokens,
crops and attention pairs. The rival is the order as it is. And what every process spends on the
plans of all ranks, where packs are made on the fly.
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


def mixture(count: int) -> dict[str, np.ndarray]:
    """Costs of the examples of so many packs and more, by name."""
    stream = mixture_sft.generate("sft", 5 * count, seed=3)
    vision = np.minimum(83 * stream.crops, stream.tokens)
    columns = {"tokens": stream.tokens, "crops": stream.crops, "vision_tokens": vision}
    return {**columns, "branches": np.full(len(vision), 3)}


def packs_of_mixture(columns: dict[str, np.ndarray], count: int, ahead: bool) -> np.ndarray:
    """What each of so many packs of the mixture takes, in milliseconds."""
    budgets = mixture_sft.BUDGETS
    if ahead:
        packs = tp.pack({name: columns[name][: 4 * count] for name in budgets}, budgets)
        rows = [members.tolist() for members in packs]
    else:
        packer, rows = tp.Packer(budgets, 48), []
        costs = zip(*(columns[name].tolist() for name in budgets), strict=True)
        for key, values in enumerate(costs):
            pack = packer.push(key, dict(zip(budgets, values, strict=True)))
            if pack is not None:
                rows.append(pack.keys)
    return step_costs(weighed(columns, {}), rows[:count])


def planning(columns: dict[str, np.ndarray], ranks: int, balance: tp.Balance) -> float:
    """Microseconds a pack for the plans of all ranks, in each process; nothing is loaded."""
    from treepack.dataset.balanced import BalancedIterator

    names = ["tokens", "crops"]
    table = tp.costs.CostTable({name: columns[name][:80_000] for name in names})
    dataset = tp.PackedDataset(
        range(80_000), costs=table, budgets=mixture_sft.BUDGETS, balance=balance, shard=(0, ranks)
    )
    dealer, packs = BalancedIterator(dataset.settings)._stream._dealer, 0
    start = time.perf_counter()
    while not dealer.is_last:
        packs += len(dealer.window())
        dealer.next_window()
    return 1e6 * (time.perf_counter() - start) / packs


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
    count = STEPS * max(RANKS)
    columns = mixture(count)
    names = [f"{b.accumulate} x, window {b.window}, {b.sync}" for b in WAYS]
    for ahead in (False, True):
        costs = packs_of_mixture(columns, count, ahead)
        made = "made ahead" if ahead else "made on the fly"
        print(f"\n{len(costs):,} packs {made}; the slowest rank takes longer than the mean, in %")
        print(f"{'ranks':>6}" + "".join(f"{name:>26}" for name in names))
        for ranks in RANKS:
            found = []
            for balance in WAYS:
                # As many packs for each, so that they are of the same steps.
                some = costs[: STEPS * ranks * balance.accumulate]
                each = 1 if balance.sync == "micro" else balance.accumulate
                plain = unbalanced(some, ranks, each)
                found.append(f"{plain:.1%} -> {imbalance(some, ranks, balance):.2%}")
            print(f"{ranks:6}" + "".join(f"{each:>26}" for each in found))
    each = ", ".join(f"{dealing(costs[:20_000], 64, balance):.1f}" for balance in WAYS)
    print(f"\ndealing, us a pack, 64 ranks: {each}")
    each = ", ".join(f"{planning(columns, 64, balance):.1f}" for balance in WAYS)
    print(f"packing and dealing for 64 ranks, us a pack: {each}")


def unbalanced(costs: np.ndarray, ranks: int, each: int) -> float:
    """The same in the order given, with so many packs of each rank added up."""
    loads = costs[: len(costs) // (ranks * each) * ranks * each].reshape(-1, each, ranks).sum(1)
    return float((loads.max(1) / loads.mean(1) - 1).mean())


if __name__ == "__main__":
    main()
