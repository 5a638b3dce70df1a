"""Work on rows for which there is not enough memory; every line printed is one piece of work."""

from __future__ import annotations

import os
import pickle
import resource
import sys
from pathlib import Path

import numpy as np
import torch
import treepack as tp
from treepack._core import block_lists, longest_path, window_plan
from treepack.attention import TreePlan
from treepack.attention.flex import make_blocks

MIB = 1 << 20
MOST = 2**31 - 1


def limit(mebibytes):
    """Let the process have so much more memory than it has; its size stands in pages."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + mebibytes * MIB, hard))


def ask(name, work):
    try:
        work()
    except MemoryError as error:
        print(name, "MemoryError", error, flush=True)
    except Exception as error:
        print(name, type(error).__name__, error, flush=True)
    else:
        print(name, "done", flush=True)


def long_row():
    """A few nodes and padding without end."""
    mask = tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0], [[0, 2, 0]], "image_tokens", MOST)
    tree = tp.MessageTree([1, 2, 3], labels=[1, 2, 3])
    cpu = torch.device("cpu")
    ask("pickle", lambda: pickle.loads(pickle.dumps(mask)))  # holds nothing of each token
    ask("plan", lambda: TreePlan.from_mask(mask))  # nor does this
    for name in ("key_lo", "key_end", "query_hi"):
        ask(name, lambda name=name: getattr(mask, name))
    ask("positions", mask.positions)
    ask("block_lists", lambda: block_lists(mask, 128, 128))
    ask("small blocks", lambda: block_lists(mask, 1, 1))
    ask("make_blocks", lambda: make_blocks(mask, cpu, None))
    ask("collate", lambda: tp.collate([tree], total=MOST))


def many_nodes(n=1_000_000):
    """A root with so many branches, each with an image."""
    lengths = np.ones(n, np.int64)
    lengths[0] = n
    parents = np.zeros(n, np.int64)
    parents[0] = -1
    at = np.arange(n, 2 * n - 1)
    runs = np.stack([at, at + 1, at], 1)
    made = tp.TreeMask.from_nodes(lengths, parents, runs, "image_tokens")
    for more in (8, 16, 32, 64, 128, 256, 512, 1024):
        limit(more)
        ask("from_nodes", lambda: tp.TreeMask.from_nodes(lengths, parents, runs, "image_tokens"))
        ask("plan", made.plan)
        ask("window", lambda: window_plan(made, 3))
        ask("longest_path", lambda: longest_path(made))
        ask("node_start", lambda: made.node_start)
        ask("key_end", lambda: made.key_end)
        ask("targets", lambda: made.targets([0], np.ones(n, int), np.ones(n), [1], [1.0]))
        ask("pickle", lambda: pickle.dumps(made))


def long_windows(n=100_000):
    """Many branches under a long root: their windows together are more than an int32 counts."""
    lengths = np.ones(n, np.int64)
    lengths[0] = n
    parents = np.zeros(n, np.int64)
    parents[0] = -1
    mask = tp.TreeMask.from_nodes(lengths, parents)
    ask("too long", lambda: window_plan(mask, n))
    ask("long", lambda: window_plan(mask, n // 10))


def in_a_fork(work):
    """Each piece has memory of its own, and what it needs is imported once for all."""
    print("begin", work.__name__, flush=True)
    child = os.fork()
    if not child:
        limit(1024)
        work()
        print("alive", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{work.__name__} ended with {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    for work in (long_row, many_nodes, long_windows):
        in_a_fork(work)
