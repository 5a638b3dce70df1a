"""Ranks of DeepSpeed's ALST, which exchanges tokens for heads around our attention function."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
import torch.distributed as dist
import treepack as tp
from helpers.processes.sequence_ranks import text_model
from helpers.text_rows import random_trees


def compare(rank, world):
    """Differences of the loss and of gradients between whole rows and those cut by hand."""
    warnings.filterwarnings("ignore")
    from deepspeed import comm, ops
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    # A kernel for ranks of one machine, which would be compiled here.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    comm.init_distributed(dist_backend="gloo", verbose=False)
    model = tp.hf.prepare(text_model(4, 2))
    batch = tp.collate(random_trees(np.random.default_rng(8), 3), total=60)
    whole = copy.deepcopy(model)
    loss = whole(**batch).loss
    loss.backward()
    UlyssesSPAttentionHF.register_with_transformers(
        model,
        core_attn_implementation="treepack",
        sequence_parallel_size=world,
        micro_batch_size=1,
    )
    part = model(**part_of(batch, rank, world)).loss
    part.backward()
    total = summed(part.detach().clone())
    gradients = {name: summed(p.grad) for name, p in model.named_parameters()}
    error = max((gradients[n] - p.grad).abs().max() for n, p in whole.named_parameters())
    return {"loss": abs(total - loss).item(), "gradients": error.item(), "value": loss.item()}


def part_of(batch, rank, world):
    """This rank's tokens and targets; the row is whole."""
    length = batch["input_ids"].shape[1] // world
    here = slice(rank * length, (rank + 1) * length)
    place = batch["logits_to_keep"] - here.start
    own = (place >= 0) & (place < length)
    cut = {name: batch[name][:, here] for name in ("input_ids", "position_ids")}
    cut |= {name: batch[name][:, own] for name in ("targets", "loss_weights")}
    weight = batch["loss_weights"].sum(dtype=torch.float64)
    return {**batch, **cut, "logits_to_keep": place[own], "num_items_in_batch": weight}


def summed(x):
    dist.all_reduce(x)
    return x
