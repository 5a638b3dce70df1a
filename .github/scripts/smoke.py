"""Uses an installed treepack that has numpy alone; wheels and the sdist are tried with it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import treepack as tp


def expect(fine: bool, what: str) -> None:
    """Stop where something is not as it should be."""
    if not fine:
        raise SystemExit(what)


def main() -> None:
    """Pack, mask, run the command."""
    expect("packages" in tp.__file__, f"{tp.__file__} is not installed")
    packer = tp.Packer({"tokens": 8}, pool_size=2)
    expect(packer.push("a", {"tokens": 3}) is None, "one example gave a pack")
    expect(packer.push("b", {"tokens": 5}).keys == ["a", "b"], "a full row was not found")
    mask = tp.TreeMask.from_nodes([2, 1], [-1, 0])
    expect(mask.to_dense().sum() == 6, "the mask of a row is wrong")
    command = next(Path(sysconfig.get_path("scripts")).glob("treepack*"))
    simulate = [command, "simulate", "--mixture", "sft", "--sample", "500"]
    done = subprocess.run(simulate, capture_output=True, text=True, check=True)
    expect("Advice" in done.stdout, done.stdout + done.stderr)
    print(sys.version, tp.__file__, "works")


if __name__ == "__main__":
    main()
