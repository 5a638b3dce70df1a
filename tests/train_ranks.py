"""Trains the tiny model under torchrun: train_ranks.py FOLDER WORKERS STEPS DIE_AT.

Each step has two packs, whatever the number of ranks. A checkpoint follows each; at step DIE_AT
rank 0 is killed in the middle.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import treepack as tp
from tiny_training import RATE, Tiny, labelled
from torch.utils.data import DataLoader

PACKS = 2


class Job:
    """What a checkpoint holds."""

    def __init__(self, folder, rank):
        self.path = Path(folder) / "checkpoint.pt"
        self.rank = rank
        self.dataset = labelled(epochs=None, virtual_shards=4)
        self.model = Tiny()
        self.optimizer = torch.optim.SGD(self.model.parameters(), RATE, momentum=0.9)
        self.step = 0
        if self.path.exists():
            self.load(torch.load(self.path))

    def load(self, saved):
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.dataset.load_state_dict(saved["loader"])
        self.step = saved["step"]

    def save(self):
        state = tp.train.gather_state(self.dataset)
        if self.rank:
            return
        saved = {"loader": state, "step": self.step}
        saved.update(model=self.model.state_dict(), optimizer=self.optimizer.state_dict())
        torch.save(saved, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").replace(self.path)


def train(job, model, world, workers, steps, die_at=0):
    loader = DataLoader(job.dataset, batch_size=None, num_workers=workers)
    for packs, weight in tp.train.steps(loader, accumulate=PACKS // world):
        for pack in packs:
            model(pack, weight / world).backward()
        job.step += 1
        if job.step == die_at and job.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        job.optimizer.step()
        job.optimizer.zero_grad()
        job.save()
        if job.step == steps:
            return


def main(folder, *settings):
    warnings.filterwarnings("ignore", "This DataLoader will create")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    job = Job(folder, dist.get_rank())
    model = torch.nn.parallel.DistributedDataParallel(job.model)
    train(job, model, dist.get_world_size(), *settings)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
