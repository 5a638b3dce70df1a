"""A whole table packed at once, beside the packers that others use for it: rows and time.

python benches/offline.py            # 200,000 examples of the sft stream: a few minutes
python benches/offline.py --quick    # 20,000
python benches/offline.py --large    # 10 million examples and the memory they take, alone

The others know one budget, tokens, or are written for this comparison with two. So rows are
compared twice: on tokens alone, and on both budgets, where a row over the crop budget is none.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterable

import numpy as np
import treepack as tp
from common import machine
from common.offline_rivals import rivals
from treepack.packing import mixture_sft as streams

SEEDS = range(5)


def timed(pack: Callable[[], Iterable[Iterable[int]]]) -> tuple[list[np.ndarray], float]:
    """The packs, and the seconds of the processor that they took: all work in this process."""
    start = time.process_time()
    packs = pack()
    seconds = time.process_time() - start
    return [np.fromiter(members, int) for members in packs], seconds


def line(name: str, packs: list[np.ndarray], seconds: float, stream: streams.Stream) -> None:
    """Check that nothing is lost, and print rows and time."""
    n = len(stream.tokens)
    assert sorted(np.concatenate(packs).tolist()) == list(range(n)), f"{name} lost an example"
    crops = np.array([stream.crops[members].sum() for members in packs])
    tokens = np.array([stream.tokens[members].sum() for members in packs])
    assert (tokens <= streams.BUDGETS["tokens"]).all() or "TRL" in name, name
    broken = (crops > streams.BUDGETS["crops"]).mean()
    by_tokens = len(packs) / (stream.tokens.sum() / streams.BUDGETS["tokens"])
    both = f"{len(packs) / stream.bound:>10.4f}" if broken == 0 else f"{'-':>10}"
    us = 1e6 * seconds / n
    print(f"{name:44}{len(packs):>9}{by_tokens:>10.4f}{both}{broken:>9.1%}{us:>10.1f}", flush=True)


def compare(n: int) -> None:
    """All packers on one stream."""
    stream = streams.generate("sft", n, 0)
    columns = {"tokens": stream.tokens, "crops": stream.crops}
    one = {"tokens": streams.BUDGETS["tokens"]}
    print(f"\nsft, {n} examples; over bound: of tokens alone, of both budgets; us an example")
    print(f"{'':44}{'rows':>9}{'tokens':>10}{'both':>10}{'over':>9}{'us':>10}")
    for name, budgets in (("both budgets", streams.BUDGETS), ("tokens alone", one)):
        for effort in ("fast", "best"):
            packs, seconds = timed(lambda b=budgets, e=effort: tp.pack(columns, b, effort=e))
            line(f"treepack, {name}, {effort}", packs, seconds, stream)
    for name, rival in rivals().items():
        if name == "binpacking" and n > 20_000:
            print(f"{name:44}{'its time grows with the square of n: see --quick':>57}")
            continue
        rival(stream.tokens[:100], stream.crops[:100], streams.BUDGETS)  # compiled, if it is
        packs, seconds = timed(lambda r=rival: r(stream.tokens, stream.crops, streams.BUDGETS))
        line(name, packs, seconds, stream)


def efforts(n: int) -> None:
    """Mean of five seeds, beside a stream."""
    print(f"\nRows / bound, both budgets; mean of five seeds of {n} examples")
    for mixture in streams.MIXTURES:
        ratios: dict[str, list[float]] = {"stream": [], "early": [], "fast": [], "best": []}
        for seed in SEEDS:
            stream = streams.generate(mixture, n, seed)
            columns = {"tokens": stream.tokens, "crops": stream.crops}
            for name in ("stream", "early"):
                packer = tp.Packer(streams.BUDGETS, early=name == "early")
                gone = sum(
                    packer.push(key, cost) is not None for key, cost in enumerate(stream.costs())
                )
                ratios[name].append((gone + len(packer.flush())) / stream.bound)
            for name in ("fast", "best"):
                packs = tp.pack(columns, streams.BUDGETS, effort=name)
                ratios[name].append(packs.statistics["rows_per_bound"])
        cells = "".join(f"{name:>10} {np.mean(found):.4f}" for name, found in ratios.items())
        print(f"{mixture:8}{cells}", flush=True)


def large(n: int = 10_000_000) -> None:
    """Many examples, drawn from a smaller stream."""
    stream = streams.generate("sft", 200_000, 0)
    drawn = np.random.default_rng(1).integers(0, len(stream.tokens), n)
    columns = {"tokens": stream.tokens[drawn], "crops": stream.crops[drawn]}
    del drawn
    start, began = time.perf_counter(), time.process_time()
    packs = tp.pack(columns, streams.BUDGETS, progress=True)
    seconds = time.perf_counter() - start
    busy = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    ratio = packs.statistics["rows_per_bound"]
    print(f"{n} examples: {seconds:.0f} s, {busy:.0f} s of the processor, {memory:.0f} MB", end="")
    print(f" at most in the whole process, rows / bound {ratio:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 examples, no means")
    parser.add_argument("--large", action="store_true", help="10 million examples, alone")
    options = parser.parse_args()
    print(machine.describe())
    if options.large:
        large()
        return
    compare(20_000 if options.quick else 200_000)
    if not options.quick:
        efforts(20_000)


if __name__ == "__main__":
    main()
