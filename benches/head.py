"""Loss and log-probabilities of a large vocabulary, with all logits and with deferred ones.

    python benches/head.py                # 16 GB of memory, about ten minutes on one core
    python benches/head.py --repeats 3

4,096 targets, vocabulary 151,936, hidden size 256, forward and backward; each measurement in a
process of its own. Peak memory is above the model and its inputs, and the gradients of the head and
of the hidden states, 148 and 4 MiB in float32, are in it. Time is that of the processor, the least
of the repeats.
"""

from __future__ import annotations

import argparse

from common import machine
from common.peak import measured

CASES = [(what, dtype) for what in ("loss", "entropy") for dtype in ("float32", "bfloat16")]
NAMES = {"loss": "weighted loss", "entropy": "log-probabilities and entropies"}


def line(what: str, dtype: str, repeats: int) -> str:
    """A line of the table: both ways in turn, so that a busy machine slows both."""
    ways = ("full", "deferred")
    found = [[measured(way, what, dtype) for way in ways] for _ in range(repeats)]
    peaks, seconds = (
        [min(each[way][part] for each in found) for way in range(2)] for part in range(2)
    )
    cells = [f"{NAMES[what]}, {dtype}", *(f"{peak:,.0f}" for peak in peaks), f"{seconds[0]:.1f}"]
    return "| " + " | ".join([*cells, f"{seconds[1] / seconds[0]:.2f} x"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    repeats = parser.parse_args().repeats
    print(machine.describe())
    print("| | full, MiB | deferred, MiB | full, s | deferred takes |")
    print("|---|---|---|---|---|")
    for what, dtype in CASES:
        print(line(what, dtype, repeats), flush=True)


if __name__ == "__main__":
    main()
