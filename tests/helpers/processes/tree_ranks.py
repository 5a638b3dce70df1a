"""What each rank of the distributed tests runs: a real text model on the rank's own pack."""

from __future__ import annotations

import numpy as np
import torch
import treepack as tp
from helpers.text_rows import causal_model, random_trees

WORLD = 2
LAYOUTS = ("ddp", "ddp, checkpointed", "fsdp2", "fsdp2, checkpointed", "fsdp2, one unit")


def model_and_packs():
    """The same model on every rank, and one pack for each rank, of unequal length and weight."""
    rng = np.random.default_rng(5)
    packs = [tp.collate(random_trees(rng, n), total=60 * n) for n in range(2, 2 + WORLD)]
    return causal_model(), packs


def train_all(rank, world):
    """One step in every layout, and what mixed precision does to the loss weights."""
    found = {layout: train(rank, world, layout) for layout in LAYOUTS}
    return {**found, "weights": {cast: weights_in_bfloat16(rank, cast) for cast in (True, False)}}


def train(rank, world, layout):
    model, packs = model_and_packs()
    if "checkpointed" in layout:
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)()
    pack = packs[rank]
    weight = pack["loss_weights"].sum(dtype=torch.float64)
    torch.distributed.all_reduce(weight)
    wrapped = wrap(model, layout)
    with Spy() as spy:
        # The wrappers average over ranks; so the weight of a rank's share is that of all ranks.
        loss = wrapped(**pack, num_items_in_batch=weight / world).loss
        forwards = len(spy.rows)
        loss.backward()
    found = {name: whole(p.grad) for name, p in model.named_parameters()}
    return {
        "loss": loss.item(),
        "gradients": found,
        "forwards": forwards,
        "same_row": all(row is pack["treepack"] for row in spy.rows),
    }


def wrap(model, layout):
    if layout.startswith("ddp"):
        return torch.nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard

    if "one unit" not in layout:
        for layer in model.model.layers:
            fully_shard(layer)
    return fully_shard(model)


def weights_in_bfloat16(rank, cast_forward_inputs):
    """The loss weights that the loss gets to see under FSDP2's mixed precision."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model, packs = model_and_packs()
    model, seen, run = model.float(), [], model.loss_function
    model.loss_function = lambda **given: seen.append(given["loss_weights"]) or run(**given)
    policy = MixedPrecisionPolicy(torch.bfloat16, cast_forward_inputs=cast_forward_inputs)
    fully_shard(model, mp_policy=policy)(**packs[rank]).loss.backward()
    return seen


def whole(tensor):
    return getattr(tensor, "full_tensor", lambda: tensor)()


class Spy:
    """Keeps the mask argument of every attention call."""

    def __enter__(self):
        from treepack.hf import attention

        self.rows, self.module, self.run = [], attention, attention.tree_attention
        attention.tree_attention = self.attend
        return self

    def attend(self, q, k, v, row, *rest, **options):
        self.rows.append(row)
        return self.run(q, k, v, row, *rest, **options)

    def __exit__(self, *_):
        self.module.tree_attention = self.run
