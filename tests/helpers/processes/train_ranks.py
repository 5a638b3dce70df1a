"""Trains two models side by side; under torchrun: train_ranks FOLDER WORKERS STEPS DIE_AT.

Each step has two packs, whatever the number of ranks. A checkpoint follows each; at step DIE_AT
rank 0 is killed in the middle.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import treepack as tp
from helpers.tiny_training import RATE, Tiny, labelled
from torch.utils.data import DataLoader

PACKS = 2


def tiny():
    """An embedding and a head, on trees of random tokens."""
    return Tiny(), labelled(epochs=None, virtual_shards=4), RATE


def molmo2():
    """A small random-weight Molmo2 with its vision tower, on images with several questions."""
    from helpers import tiny_models

    questions = {"What is it?": "A photograph.", "Is it large?": "No.", "Why?": "For a test."}
    records = [
        tiny_models.record(f"<image>\n{question}", f"{answer} {n}", id=f"{n}", image=image)
        for n, image in enumerate(tiny_models.photo(seed) for seed in range(6))
        for question, answer in list(questions.items())[: 1 + n % 3]
    ]
    dataset = tp.PackedDataset(
        tp.group_conversations(records),
        processor=tiny_models.molmo2_processor(),
        budgets={"tokens": 700, "crops": 10},
        pool_size=3,
        epochs=None,
        virtual_shards=4,
    )
    return tp.hf.prepare(tiny_models.molmo2_model()), dataset, 0.01


MODELS = {"tiny": tiny, "molmo2": molmo2}


def loss_of(model, pack, divisor):
    if "pixel_values" not in pack:
        return model(pack, divisor)
    return model(**pack.to("cpu", dtype=torch.float64), num_items_in_batch=divisor).loss


class Job:
    """What the checkpoint of a model holds."""

    def __init__(self, folder, rank, model):
        self.path = Path(folder) / f"{model}.pt"
        self.rank = rank
        self.model, self.dataset, rate = MODELS[model]()
        self.optimizer = torch.optim.SGD(self.model.parameters(), rate, momentum=0.9)
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


def train(job, model, world, workers, steps):
    """Train to a number of steps; yields in the middle of each, before the model changes."""
    loader = DataLoader(job.dataset, batch_size=None, num_workers=workers)
    for packs, weight in tp.train.steps(loader, accumulate=PACKS // world):
        for pack in packs:
            loss_of(model, pack, weight / world).backward()
        job.step += 1
        yield job.step
        job.optimizer.step()
        job.optimizer.zero_grad()
        job.save()
        if job.step == steps:
            return


def train_all(folder, workers, steps, die_at=0):
    """Train the models side by side, in the process group that there is."""
    warnings.filterwarnings("ignore", "This DataLoader will create")
    loops = []
    for name in MODELS:
        job = Job(folder, dist.get_rank(), name)
        model = torch.nn.parallel.DistributedDataParallel(job.model)
        loops.append(train(job, model, dist.get_world_size(), workers, steps))
    for at in itertools.zip_longest(*loops):
        if die_at in at and dist.get_rank() == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder, workers, steps, die_at):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train_all(folder, workers, steps, die_at)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
