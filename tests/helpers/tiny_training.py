"""A model of one embedding and one head, trained on packed rows."""

from __future__ import annotations

import torch
import treepack as tp
from torch import nn
from treepack.hf.loss import weighted_loss

RATE = 0.5


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.embedding = nn.Embedding(100, 4, dtype=torch.float64)
        self.head = nn.Linear(4, 100, dtype=torch.float64)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def forward(self, batch, divisor):
        hidden = self.embedding(batch["input_ids"])[:, batch["logits_to_keep"]]
        return weighted_loss(
            self.head(hidden),
            loss_weights=batch["loss_weights"],
            targets=batch["targets"],
            num_items_in_batch=divisor,
        )


class Labelled:
    """Trees whose branches are trained on, with weights that differ."""

    def __init__(self, n=60):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        from helpers.tree_sources import tree_of

        tree = tree_of(index)
        branches = [
            tp.MessageTree(b.tokens, labels=b.labels, weight=1 + index % 4) for b in tree.children
        ]
        extra = tp.MessageTree([3, 4, 5], labels=[3, 4, 5], weight=0.25)
        return tp.MessageTree(tree.tokens, children=[*branches, extra], key=index, costs=tree.costs)


def labelled(n=60, **options):
    from helpers.tree_sources import BUDGETS

    return tp.PackedDataset(Labelled(n), budgets=BUDGETS, pool_size=6, **options)


def train(model, loader, world=1, after_step=None, **options):
    """SGD over the steps; the keys of each step's packs, without those that only fill."""
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    seen = []
    for packs, weight in tp.train.steps(loader, **options):
        for pack in packs:
            model(pack, weight / world).backward()
        optimizer.step()
        optimizer.zero_grad()
        real = [pack for pack in packs if pack["loss_weights"].sum()]
        seen.append([pack["treepack"].keys for pack in real])
        if after_step is not None:
            after_step()
    return seen
