"""Training on a mesh of 2 data-parallel groups of 2 ranks that share rows; what is rejected."""

from __future__ import annotations

import copy
import os
import warnings

import torch
import torch.distributed as dist
import transformers as hf
import treepack as tp
from helpers import tiny_models, zoo
from helpers.processes.sequence_ranks import text_model, text_rows, windowed_model
from helpers.text_rows import stock_model
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader

DP, SP = 2, 2
STEPS, ACCUMULATE, RATE = 3, 2, 0.1
LAYOUTS = ("ddp", "fsdp2", "trainer")


def model():
    return text_model(4, 2)


def data(**options):
    trees = [
        tp.MessageTree([i % 50] * (5 + i % 9), labels=[i % 7] * (5 + i % 9), weight=0.1 + i % 3)
        for i in range(120)
    ]
    return tp.PackedDataset(
        trees, budgets={"tokens": 61}, pool_size=6, virtual_shards=DP, **options
    )


def train(model, rows, accumulate, world):
    """Parameters and losses of a loop as docs/guide/trainers.md has it."""
    optimizer, losses = torch.optim.SGD(model.parameters(), RATE), []
    for packs, weight in tp.train.steps(rows, accumulate):
        losses.append(0.0)
        for pack in packs:
            loss = model(**pack, num_items_in_batch=weight / world).loss
            loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        if len(losses) == STEPS:
            break
    return losses


def alone():
    """One process on the rows of both data-parallel groups."""
    made, rows = tp.hf.prepare(model()), data()
    losses = train(made, rows, ACCUMULATE * DP, 1)
    return {"losses": losses, "parameters": made.state_dict(), "state": rows.state_dict()}


def evaluated(parameters):
    """The loss of the data by the loop of docs/guide/trainers.md, in one process."""
    made = tp.hf.prepare(model())
    made.load_state_dict(parameters)
    total = divisor = 0.0
    for (pack,), weight in tp.train.steps(data()):
        with torch.no_grad():
            total += made(**pack, num_items_in_batch=1.0).loss.item()
        divisor += weight
    return total / divisor


def on_mesh(rank, world, folder):
    """What each rank has after training in every layout, and which rows it saw."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {name: str(value) for name, value in place.items()}
    mesh = init_device_mesh("cpu", (DP, SP), mesh_dim_names=("dp", "sp"))
    found = {layout: _layout(layout, mesh, folder) for layout in LAYOUTS}
    rows = iter(data(shard=mesh["dp"]))
    return {**found, "keys": [next(rows)["treepack"].keys for _ in range(3)]}


def _layout(layout, mesh, folder):
    made, rows = tp.hf.prepare(model(), sequence_parallel=mesh["sp"]), data(shard=mesh["dp"])
    if layout == "trainer":
        return _by_trainer(made, rows, folder)
    losses = train(_wrapped(layout, made), rows, ACCUMULATE, DP * SP)
    parameters = {name: _whole(value) for name, value in made.state_dict().items()}
    return {"losses": losses, "parameters": parameters, "state": tp.train.gather_state(rows)}


def _wrapped(layout, made):
    if layout == "ddp":
        return torch.nn.parallel.DistributedDataParallel(made)
    from torch.distributed.fsdp import fully_shard

    for layer in made.model.layers:
        fully_shard(layer)
    return fully_shard(made)


def _by_trainer(made, rows, folder):
    sgd = {"optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant"}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    sizes = {"gradient_accumulation_steps": ACCUMULATE, "max_steps": STEPS, "max_grad_norm": 0}
    ranks = {"ddp_backend": "gloo", "ddp_find_unused_parameters": False, "save_strategy": "no"}
    args = hf.TrainingArguments(folder, **sgd, **quiet, **sizes, **ranks)
    trainer = tp.hf.PackedTrainer(made, args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    evaluated = trainer.evaluate()["eval_loss"]
    state = tp.train.gather_state(rows)
    return {
        "losses": losses,
        "parameters": made.state_dict(),
        "state": state,
        "evaluated": evaluated,
    }


def _whole(tensor):
    return getattr(tensor, "full_tensor", lambda: tensor)().detach()


def train_on_page(rank, world, sharing, loop, source):
    """Parameters after the code of docs/guide/trainers.md, under DDP."""
    warnings.filterwarnings("ignore", "This DataLoader will create")
    model = stock_model("llama", vocab_size=300).float()
    names = {"tp": tp, "torch": torch, "DataLoader": DataLoader, "device": "cpu", "save_at": -1}
    mesh = {"init_device_mesh": init_device_mesh, "dp": 1, "sp": world, "world": world}
    names |= {**mesh, "model": model, "source": source}
    exec(sharing, names)
    names["model"] = torch.nn.parallel.DistributedDataParallel(names["model"])
    names["optimizer"] = torch.optim.SGD(model.parameters(), RATE)
    exec(loop, names)
    return model.state_dict()


def error_of(run, *arguments, **options):
    try:
        run(*arguments, **options)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def rejected(rank, world):
    """What is said of models and batches that cannot be shared."""
    group, batch = dist.group.WORLD, next(text_rows())
    made = tp.hf.prepare(model(), sequence_parallel=group)
    other = list(text_rows())[rank]
    without = {name: value for name, value in batch.items() if name != "targets"}
    whole = {**batch, "treepack": batch["treepack"].mask}
    calls = {
        "other rows": lambda: made(**other),
        "other tokens": lambda: made(**batch | {"input_ids": batch["input_ids"] + rank}),
        "a part on its way": lambda: _cut_on_its_way(batch),
        "no targets": lambda: made(**without),
        "text model alone": lambda: made.model(
            input_ids=batch["input_ids"], treepack=batch["treepack"]
        ),
        "no row": lambda: made(**{n: v for n, v in batch.items() if n != "treepack"}),
        "a part by hand": lambda: tp.hf.prepare(model())(
            **batch | {name: batch[name][:, :9] for name in ("input_ids", "position_ids")}
        ),
        "token argument": lambda: made(**batch, offsets=torch.zeros(1, 37)),
    }
    models = {
        "heads": lambda: share(text_model(3, 3)),
        "hybrid": lambda: share(_hybrid()),
        "rotary": lambda: share(_dynamic()),
        "experts": lambda: share(_experts()),
        "gemma4": lambda: share(zoo.build("gemma4")[1]),
        "no group": lambda: tp.hf.prepare(model(), sequence_parallel="sp"),
        "mesh": lambda: share(model(), init_device_mesh("cpu", (1, world))),
    }
    # A mask alone will do, too.
    assert torch.equal(made(**whole).logits, made(**batch).logits)
    return {name: error_of(run) for name, run in {**calls, **models}.items()}


def _cut_on_its_way(batch):
    made = share(model())
    made.model.layers[0].register_forward_pre_hook(lambda _, args: (args[0][:, :9], *args[1:]))
    made.model.rotary_emb.register_forward_hook(lambda *given: [x[:, :9] for x in given[-1]])
    return made(**batch)


def share(made, group=None):
    return tp.hf.prepare(made, sequence_parallel=group or dist.group.WORLD, unchecked=True)


def _hybrid():
    sizes = {**tiny_models.TEXT, "vocab_size": 50, "num_attention_heads": 4}
    config = hf.Lfm2Config(**sizes, layer_types=["conv", "full_attention"])
    return hf.Lfm2ForCausalLM(config)


def _dynamic():
    rope = {"rope_type": "dynamic", "rope_theta": 8.0, "factor": 2.0}
    return stock_model("llama", rope_parameters=rope, num_attention_heads=4)


def _experts():
    sizes = {**tiny_models.TEXT, "num_attention_heads": 4, "num_experts": 2}
    config = hf.Qwen3MoeConfig(**sizes, vocab_size=50, output_router_logits=True)
    return hf.Qwen3MoeForCausalLM(config)


def restored(rank, world):
    """Logits before, inside of and after `restore`, of a copy too, and of one prepared anew."""
    made = windowed_model("mistral")
    ids = torch.arange(12)[None]
    batch = next(text_rows())
    plain = made(ids).logits
    whole = tp.hf.prepare(copy.deepcopy(made))(**batch).logits
    tp.hf.prepare(made, sequence_parallel=dist.group.WORLD)
    part = made(**batch).logits
    with tp.hf.restore(made):
        inside = made(ids).logits
    again, copied = made(**batch).logits, copy.deepcopy(made)(**batch).logits
    anew = tp.hf.prepare(copy.deepcopy(made))(**batch).logits
    tp.hf.restore(made)
    return {
        "inside": torch.equal(plain, inside),
        "again": torch.equal(part, again),
        "copied": torch.equal(part, copied),
        "anew": torch.equal(whole, anew),
        "is part": part.shape[1] < whole.shape[1],
        "afterwards": torch.equal(plain, made(ids).logits),
    }
