"""Several gloo ranks on this machine, each a process that runs one function."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SECONDS = 120


def run_ranks(world, function, *arguments):
    """What ``function(rank, world, *arguments)`` returns on each rank."""
    return run_launched(world, _joined, function, *arguments)


def run_launched(world, function, *arguments):
    """What ``function(rank, world, join, *arguments)`` returns; ``join()`` makes the group."""
    with tempfile.TemporaryDirectory() as folder:
        # Like mp.spawn, but torch is imported once for all of them (see conftest.py).
        mp.start_processes(
            _main, (world, folder, function, arguments), nprocs=world, start_method="forkserver"
        )
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world)]


def _joined(rank, world, join, function, *arguments):
    join()
    return function(rank, world, *arguments)


def _main(rank, world, folder, function, arguments):
    from datetime import timedelta

    torch.set_num_threads(1)
    # As in a script on Linux: a process of the server would start one more server for its workers.
    mp.set_start_method("fork", force=True)
    place = {"rank": rank, "world_size": world, "timeout": timedelta(seconds=SECONDS)}
    join = functools.partial(
        dist.init_process_group, "gloo", init_method=f"file://{folder}/store", **place
    )
    result = function(rank, world, join, *arguments)
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
