"""What each rank runs with deferred logits: steps of a tiny model in every layout."""

from __future__ import annotations

import contextlib
import warnings

import torch
import treepack as tp
from helpers import tiny_models
from helpers.losses.models import TEXT_MODELS, text_batch
from torch.nn.parallel import DistributedDataParallel
from treepack.errors import AttentionError

WORLD, STEPS, RATE = 2, 2, 0.1
TIED, UNTIED = "llama, tied", "llama"
LAYOUTS = {
    "ddp": UNTIED,
    "ddp, tied": TIED,
    "ddp, unused": UNTIED,
    "ddp, static": UNTIED,
    "ddp, accumulated": UNTIED,
    "ddp, logits alone": UNTIED,
    "ddp, unused, logits alone": UNTIED,
    "fsdp2": UNTIED,
    "fsdp2, logits alone": UNTIED,
    "fsdp2, tied": TIED,
    "fsdp2, head": UNTIED,
    "fsdp2, head, logits alone": UNTIED,
    "fsdp2, head, adapter": UNTIED,
    "fsdp2, accumulated": UNTIED,
}


def make(layout, logits):
    model = tiny_models.randomised(TEXT_MODELS[LAYOUTS[layout]]())
    if "unused" in layout:
        model.never = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    if "adapter" in layout:
        model.set_output_embeddings(Adapter(model.get_output_embeddings()))
    return tp.hf.prepare(model, logits=logits)


class Adapter(torch.nn.Module):
    """A head that is more than one matrix."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.low = torch.nn.Parameter(torch.full((16, 50), 0.01, dtype=torch.float64))

    def forward(self, hidden):
        return self.base(hidden) + hidden @ self.low


def packs_of(rank):
    """Two packs a step; the second rank has one without a target."""
    bare = tp.collate([tp.MessageTree([1 + rank, 2, 3])])
    return [text_batch(1.0 + rank), bare if rank else text_batch(0.5)]


def loss_of(model, pack, divisor, layout):
    if "logits alone" not in layout:
        return model(**pack, num_items_in_batch=divisor).loss
    lost = {name: value for name, value in pack.items() if name not in ("targets", "labels")}
    logits = model(**lost).logits
    logprobs, entropy = tp.hf.token_logprobs(logits, pack["targets"], entropy=True)
    return ((0.01 * entropy - logprobs) * pack["loss_weights"]).sum() / divisor


def weight_of_all():
    return sum(p["loss_weights"].sum().item() for rank in range(WORLD) for p in packs_of(rank))


def wrap(model, layout):
    if layout.startswith("ddp"):
        unused, static = "unused" in layout, "static" in layout
        return DistributedDataParallel(model, find_unused_parameters=unused, static_graph=static)
    from torch.distributed.fsdp import fully_shard

    for layer in model.model.layers:
        fully_shard(layer)
    if "head" in layout:
        fully_shard(model.get_output_embeddings())
    return fully_shard(model)


def train(rank, world, layout):
    """Parameters after steps with deferred logits, whole."""
    model = make(layout, "deferred")
    wrapped = wrap(model, layout)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    kinds = set()
    model.register_forward_hook(lambda _, __, out: kinds.add(type(out["logits"]).__name__))
    for _ in range(STEPS):
        packs = packs_of(rank)
        for pack in packs:
            is_last = pack is packs[-1]
            waits = "accumulated" in layout and not is_last
            with _no_sync(wrapped) if waits else contextlib.nullcontext():
                # The wrappers average over ranks.
                loss_of(wrapped, pack, weight_of_all() / world, layout).backward()
        optimizer.step()
        optimizer.zero_grad()
    return kinds, {name: whole(value) for name, value in model.state_dict().items()}


@contextlib.contextmanager
def _no_sync(wrapped):
    if hasattr(wrapped, "no_sync"):
        with wrapped.no_sync():
            yield
        return
    wrapped.set_requires_gradient_sync(False)
    yield
    wrapped.set_requires_gradient_sync(True)


def whole(tensor):
    return getattr(tensor, "full_tensor", lambda: tensor)().detach().clone()


def late_error(rank):
    """What is said when the model has freed the weights of its head before anybody looks."""
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(make("fsdp2", "deferred"), reshard_after_forward=True)
    try:
        loss_of(model, packs_of(rank)[0], 1.0, "logits alone")
    except AttentionError as error:
        return str(error)
    return ""


def tensor_parallel(world):
    """Loss, gradient of the head and warnings where ranks share the head's weight."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = make("fsdp2", "deferred")
    split = {"lm_head": ColwiseParallel(output_layouts=Replicate())}
    model = parallelize_module(model, init_device_mesh("cpu", (world,)), split)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loss = model(**packs_of(0)[0]).loss
    loss.backward()
    messages = [str(each.message) for each in told if "deferred" in str(each.message)]
    return loss.item(), whole(model.lm_head.weight.grad), messages


def train_all(rank, world):
    found = {layout: train(rank, world, layout) for layout in LAYOUTS}
    return {**found, "late": late_error(rank), "shared": tensor_parallel(world)}


def train_alone(layout):
    """The same steps in one process with all logits."""
    model = make(layout, "full")
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for _ in range(STEPS):
        for pack in (pack for rank in range(WORLD) for pack in packs_of(rank)):
            loss_of(model, pack, weight_of_all(), layout).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()
