"""Two ranks of Lightning's DDP, on the launcher's variables that torchrun sets."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
import treepack as tp
from helpers.text_rows import causal_model
from torch.utils.data import DataLoader

STEPS, SAVED, RATE = 5, 3, 0.1


def data(epochs=None):
    trees = [
        tp.MessageTree([i % 50] * (5 + i % 9), labels=[i % 7] * (5 + i % 9), weight=0.1 + i % 3)
        for i in range(60)
    ]
    # Some steps have no weight at all, and are skipped.
    trees[20:32] = [tp.MessageTree([3] * 30) for _ in range(12)]
    return tp.PackedDataset(
        trees, budgets={"tokens": 61}, pool_size=6, virtual_shards=2, epochs=epochs, shuffle=False
    )


def module(accumulate):
    """A ``LightningModule`` as docs/guide/trainers.md has it."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = causal_model("llama")
            self.automatic_optimization = accumulate == 1

        def training_step(self, step, batch_idx):
            packs, weight = step
            losses = (self.loss(pack, weight) for pack in packs)
            if self.automatic_optimization:
                return sum(losses)
            for loss in losses:
                self.manual_backward(loss)
            self.optimizers().step()
            self.optimizers().zero_grad()
            return None

        def loss(self, pack, weight):
            divisor = weight / self.trainer.world_size
            return self.model(**pack, num_items_in_batch=divisor).loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), RATE)

    return Module()


def fit(folder, accumulate, steps=-1, devices=2, workers=0, epochs=None, resume=None):
    """Train; parameters, steps that were made, and the state of the data."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint
    from treepack.lightning import PackedSteps

    warnings.filterwarnings("ignore")
    made, rows = module(accumulate), data(epochs)
    steps_of_data = PackedSteps(DataLoader(rows, batch_size=None, num_workers=workers), accumulate)
    saves = ModelCheckpoint(folder, "{step}", every_n_train_steps=SAVED, save_top_k=-1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=steps,
        max_epochs=1,
        callbacks=[saves, steps_of_data],
        **quiet,
    )
    trainer.fit(made, steps_of_data.loader, ckpt_path=resume)
    return {
        "parameters": {name: p.detach().clone() for name, p in made.model.named_parameters()},
        "steps": trainer.global_step,
        "state": tp.train.gather_state(rows),
    }


def by_hand(accumulate, steps=None, epochs=None):
    """The same by a loop in one process."""
    model, rows = causal_model("llama"), data(epochs)
    optimizer, made = torch.optim.SGD(model.parameters(), RATE), 0
    for packs, weight in tp.train.steps(rows, accumulate):
        for pack in packs:
            model(**pack, num_items_in_batch=weight).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        made += 1
        if made == steps:
            break
    return {
        "parameters": dict(model.named_parameters()),
        "steps": made,
        "state": rows.state_dict(),
    }


def all_of_it(rank, world, join, folder, port):
    """Automatic and manual optimisation, to a number of steps and to the end, and resumed."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "treepack"}
    os.environ |= {name: str(value) for name, value in {**told, **place, "GROUP_RANK": 0}.items()}
    found = {accumulate: fit(folder, accumulate, STEPS) for accumulate in (1, 2)}
    stopped = Path(folder) / "stopped"
    fit(stopped, 1, SAVED)
    saved = str(stopped / f"step={SAVED}.ckpt")
    found["resumed"] = fit(stopped, 1, STEPS, workers=1, resume=saved)
    found["to the end"] = fit(folder, 1, epochs=1)
    return found
