"""Two ranks of a vision-language model: one has images in every step, the other text alone."""

from __future__ import annotations

import torch
import treepack as tp
from helpers import tiny_models
from torch.utils.data import DataLoader
from treepack.errors import DatasetError

WORLD, STEPS, RATE = 2, 3, 0.05
# What a rank runs, and what its dataset is told.
LAYOUTS = {
    "ddp": True,
    "ddp, checkpointed": True,
    "ddp, unused parameters": False,
    "fsdp2, checkpointed": True,
}


def packed_model(name):
    return tp.hf.prepare(getattr(tiny_models, f"{name}_model")())


def stream(name, fill, **options):
    """Rows of one example, with images and videos and without by turns: each rank has its kind."""
    records = []
    for step in range(STEPS):
        kind = "video" if step == 1 and name == "qwen3_vl" else "image"
        seen = tiny_models.film(step, 2) if kind == "video" else tiny_models.photo(step)
        question = f"<{kind}>\nWhat is it? {step}"
        records += [
            tiny_models.record(question, f"A test {step}.", id=f"seen {step}", **{kind: seen}),
            tiny_models.record("Hi there?", f"Text {step} and more.", id=f"text {step}"),
        ]
    return tp.PackedDataset(
        tp.group_conversations(records),
        processor=getattr(tiny_models, f"{name}_processor")(),
        budgets={"tokens": 4000},
        pool_size=1,
        virtual_shards=WORLD,
        shuffle=False,
        vision_on_every_row=fill,
        **options,
    )


def train(model, data, world=1):
    """Parameters after SGD over all steps, and the keys of this rank's rows."""
    optimizer, keys = torch.optim.SGD(model.parameters(), RATE), []
    for packs, weight in tp.train.steps(data, accumulate=WORLD // world):
        for pack in packs:
            keys += pack["treepack"].keys
            pack = pack.to("cpu", dtype=torch.float64)
            model(**pack, num_items_in_batch=weight / world).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return keys


def all_of_it(rank, world, names):
    """For each family: what it has learnt in each layout, and what an undecided dataset says."""
    return {name: _of_family(name, world) for name in names}


def _of_family(name, world):
    found = {"undecided": [_error(name, workers) for workers in (0, 1)]}
    for layout, fill in LAYOUTS.items():
        model = packed_model(name)
        if "checkpointed" in layout:
            enable = getattr(model, "activation_checkpointing_enable", None)
            (enable or model.gradient_checkpointing_enable)()
        keys = train(_wrap(model, name, layout), stream(name, fill), world)
        parameters = {n: _whole(p) for n, p in model.named_parameters()}
        found[layout] = {"keys": keys, "parameters": parameters}
    return found


def _error(name, workers):
    options = {"num_workers": 1, "multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(stream(name, None), batch_size=None, **options)
    try:
        next(tp.train.steps(loader))
    except DatasetError as error:
        return str(error)
    return ""


def _wrap(model, name, layout):
    if layout.startswith("ddp"):
        unused = "unused" in layout
        return torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=unused)
    from torch.distributed.fsdp import fully_shard

    inner = model.model
    tower = inner.vision_tower if name == "molmo2" else inner.visual
    blocks = next(list(m) for m in tower.modules() if isinstance(m, torch.nn.ModuleList))
    # Not the tower as such: transformers would no longer find the hidden states of Molmo2's.
    for block in [*blocks, *inner.language_model.layers]:
        fully_shard(block)
    return fully_shard(model)


def _whole(tensor):
    return getattr(tensor, "full_tensor", lambda: tensor)().detach()
