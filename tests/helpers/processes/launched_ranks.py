"""Ranks as a launcher like Lightning's starts them, and as a mesh of data and tensor parallelism.

Lightning's first rank is the script itself, which has built its data before it becomes a rank; the
others are told ``WORLD_SIZE``, ``LOCAL_RANK`` and ``NODE_RANK`` from the start. Nobody sets
``RANK``: that is known once the process group is made.
"""

from __future__ import annotations

import importlib
import os
import pickle

import torch
import treepack as tp
from helpers.tiny_training import RATE, Tiny, labelled
from helpers.tree_sources import dataset
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader
from treepack.errors import DatasetError

DP, TP = 2, 2
STEPS = 3


def all_of_it(rank, world, join):
    """Everything that one rank finds."""
    early, before = _launch(rank, world)
    join()
    # A spawned worker imports everything anew, which takes seconds: one rank is enough.
    starts = ["none", "fork", *["spawn"] * (rank == 1)]
    found = {"before": before, "early": (early.shard, _keys_of(early, *starts))}
    mesh = init_device_mesh("cpu", (DP, TP), mesh_dim_names=("dp", "tp"))
    place = (mesh["dp"].get_local_rank(), DP)
    found["mesh"] = {
        name: _keys_of(dataset(n=40, shard=shard))
        for name, shard in {"pair": place, "mesh": mesh["dp"]}.items()
    }
    found["errors"] = _errors(rank, mesh, place)
    found["trained"] = {name: _train(mesh, place, name) for name in ("all", "dp")}
    return found


def _launch(rank, world):
    def build():
        return importlib.import_module("helpers.processes.early_data").EARLY

    early = build() if rank == 0 else None
    told = {"WORLD_SIZE": world, "LOCAL_RANK": rank, "NODE_RANK": 0}
    os.environ |= {name: str(value) for name, value in told.items()}
    os.environ.pop("RANK", None)
    early = early or build()
    pickle.dumps(early)
    reads = {
        "shard": lambda: early.shard,
        "iteration": lambda: next(iter(early)),
        "state": early.state_dict,
        "workers": lambda: next(iter(_loader(early, "fork"))),
        "steps": lambda: next(tp.train.steps(early)),
    }
    return early, {name: _error(read) for name, read in reads.items()}


def _error(read):
    try:
        read()
    except DatasetError as error:
        return str(error)
    return ""


def _keys_of(stream, *starts):
    """The keys that this rank reads, by itself or by a worker that is started in some way."""
    return {
        start: [key for row in _loader(stream, start) for key in row["treepack"].keys]
        for start in starts or ["none", "fork"]
    }


def _loader(stream, start):
    options = {} if start == "none" else {"num_workers": 1, "multiprocessing_context": start}
    return DataLoader(stream, batch_size=None, **options)


def _errors(rank, mesh, place):
    """What the first step says of shards that do not fit the mesh."""
    group = mesh["dp"].get_group()
    everybody = {
        "left out": (dataset(n=40), group),
        "one place for all": (dataset(n=40, shard=(0, DP)), None),
        "global": (dataset(n=40, shard=(rank, DP * TP)), group),
        "mixed": (dataset(n=40, shard=place if rank else None), None),
    }
    return {
        name: _error(lambda stream=stream, group=group: next(tp.train.steps(stream, group=group)))
        for name, (stream, group) in everybody.items()
    }


def _train(mesh, place, ranks):
    """Parameters after steps under FSDP2 and tensor parallelism, agreed on by all or by ``dp``."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = Tiny()
    split = {"head": ColwiseParallel(output_layouts=Replicate())}
    model = fully_shard(parallelize_module(model, mesh["tp"], split), mesh=mesh["dp"])
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    stream = labelled(virtual_shards=DP, shard=place)
    group, world = (mesh["dp"].get_group(), DP) if ranks == "dp" else (None, DP * TP)
    for step, (packs, weight) in enumerate(tp.train.steps(stream, group=group)):
        if step == STEPS:
            break
        for pack in packs:
            # FSDP2 averages over ``dp``; by all ranks every weight is counted ``TP`` times.
            model(pack, weight / world).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.full_tensor() for name, value in model.state_dict().items()}
