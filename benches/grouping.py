"""Grouping a million records with paths: time and memory, and what they would be without treepack.

    python benches/grouping.py [--records 1000000]

The rival is the least that any reader of the file does: ``json.loads`` of each line, and a dict
from the path of the image to the numbers of its lines.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import machine


def write(path: Path, n: int) -> None:
    rng = random.Random(0)
    words = [
        "a",
        "man",
        "riding",
        "on",
        "top",
        "of",
        "the",
        "large",
        "brown",
        "horse",
        "near",
        "water",
    ]
    with path.open("w") as file:
        for i in range(n):
            text = " ".join(rng.choices(words, k=12))
            turns = [
                {"from": "human", "value": f"<image>\nWhat about {text}?"},
                {"from": "gpt", "value": f"{text}. {text}."},
            ]
            image = f"coco/train2017/{rng.randrange(n // 7 + 1):012d}.jpg"
            file.write(json.dumps({"id": str(i), "image": image, "conversations": turns}) + "\n")


def grouped(path: str) -> tuple[int, int]:
    import treepack as tp

    source = tp.group_conversations(path)
    return len(source), len(pickle.dumps(source))


def by_hand(path: str) -> tuple[int, int]:
    groups: dict[str, list[int]] = {}
    with Path(path).open("rb") as file:
        for number, line in enumerate(file):
            groups.setdefault(json.loads(line)["image"], []).append(number)
    return len(groups), len(pickle.dumps(groups))


WAYS = {"treepack": grouped, "json and dict": by_hand}


def run(way: str, path: str) -> None:
    """One way in a process of its own, whose memory is its own."""
    start = time.perf_counter()
    examples, size = WAYS[way](path)
    seconds = time.perf_counter() - start
    # Unlike ru_maxrss, this begins anew with the process.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    found = {"seconds": seconds, "cpu": time.process_time(), "peak": int(peak), "size": size}
    print(json.dumps({**found, "examples": examples}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(*options.run)
        return
    print(machine.describe())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        write(path, options.records)
        print(f"{options.records:,} records, {path.stat().st_size / 1e6:.0f} MB of JSON lines")
        found = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--run", way, str(path)]
            found[way] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            f = found[way]
            print(
                f"{way:14} {f['seconds']:6.1f} s ({f['cpu']:.1f} s of CPU)  "
                f"peak {f['peak'] / 1024:.0f} MB  "
                f"{f['examples']:,} examples  pickled {f['size'] / 1e6:.1f} MB"
            )
    mine, theirs = found["treepack"], found["json and dict"]
    if mine["examples"] != theirs["examples"]:
        raise SystemExit("the two ways find different examples")
    print(f"treepack takes {mine['cpu'] / theirs['cpu']:.1f} times as long")


if __name__ == "__main__":
    main()
