"""The same with treepack: every image once, several examples in each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import treepack as tp
from report import LEARNING_RATE, Run
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader


def make_loader(
    source: Sequence[tp.Conversations], processor: Any, budgets: Mapping[str, int], workers: int
) -> DataLoader:
    """Packed rows of message trees."""
    dataset = tp.PackedDataset(source, processor=processor, budgets=budgets)
    return DataLoader(dataset, batch_size=None, num_workers=workers)


def train(model: torch.nn.Module, loader: DataLoader, run: Run, advance: Callable) -> None:
    """One epoch, a step for each row."""
    weight = next(model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for batch in loader:
        output = model(**batch.to(weight.device, dtype=weight.dtype))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        run.steps += 1
        record(run, batch, output.logits)
        advance(len(leaves(batch)))


@torch.no_grad()
def losses(
    model: torch.nn.Module, loader: DataLoader, advance: Callable
) -> tuple[dict[Any, float], list[tp.PackedBatch]]:
    """Mean loss of each annotation, and the rows themselves."""
    weight = next(model.parameters())
    found: dict[Any, float] = {}
    batches = []
    for batch in loader:
        logits = model(**batch.to(weight.device, dtype=weight.dtype)).logits[0].float().cpu()
        each = cross_entropy(logits, batch["targets"][0], reduction="none")
        row = batch["treepack"]
        node = torch.from_numpy(row.target_node)
        sums = torch.zeros(row.mask.n_nodes).index_add(0, node, each)
        means = sums / torch.bincount(node, minlength=row.mask.n_nodes)
        found.update((name, means[i].item()) for i, name in leaves(batch).items())
        batches.append(batch)
        advance(len(leaves(batch)))
    return found, batches


def leaves(batch: tp.PackedBatch) -> dict[int, Any]:
    """The annotations of a row by node, named by their example and their tokens."""
    row = batch["treepack"]
    ids = batch["input_ids"][0].tolist()
    nodes = zip(row.mask.node_start, row.mask.node_end, row.mask.subtree_end, strict=True)
    return {
        i: (row.keys[row.mask.node_example[i]], tuple(ids[start:end]))
        for i, (start, end, subtree_end) in enumerate(nodes)
        if end == subtree_end
    }


def record(run: Run, batch: tp.PackedBatch, logits: torch.Tensor) -> None:
    """Add what a row took."""
    mask = batch["treepack"].mask
    run.sequences += 1
    run.annotations += len(leaves(batch))
    run.tokens += mask.total
    run.useful += mask.used
    run.visual += len(batch.get("pixel_values", ()))
    run.logits += logits.shape[:-1].numel()
