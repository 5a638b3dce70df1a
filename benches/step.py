"""A training step of a language model on packs of the fine-tuning mixture, forward and backward.

    python benches/step.py                  # scaled down eight times: about a minute on one core
    python benches/step.py --shape real     # Molmo2-4B's language model; the default on a GPU
    python benches/step.py --shape real --layers 4

Ours, the dense bias that Molmo2 puts over the same row, and what a trainer does that neither packs
nor shares roots: each annotation alone, in a row padded to the full length, or not padded at all.
The last two attend causally, without Molmo2's image mask, which favours them. Losses are compared
first. The vision tower and the optimiser are not part of the step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import treepack as tp
from common import machine, sft_rows
from torch import Tensor, nn


class Shape(NamedTuple):
    """Sizes of a language model, and the tokens of its rows."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    total: int


SHAPES = {
    "real": Shape(36, 2_560, 9_728, 32, 8, 128, 151_936, 16_384),
    "small": Shape(4, 320, 1_216, 8, 2, 64, 8_192, 2_048),
}
Inputs = dict[str, Any]


def build_model(shape: Shape, device: torch.device) -> nn.Module:
    """Qwen3, of which Molmo2-4B's language model is one, with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.total,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        model = Qwen3ForCausalLM(config).to(dtype).train()
    if device.type == "cuda":
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    return tp.hf.prepare(model)


def packed(batch: tp.PackedBatch) -> list[Inputs]:
    """The row as it is."""
    return [dict(batch)]


def dense(batch: tp.PackedBatch) -> list[Inputs]:
    """The same row, its mask written out as an additive bias; what sees nothing sees itself."""
    visible = torch.from_numpy(batch["treepack"].mask.to_dense())
    visible |= torch.eye(len(visible), dtype=torch.bool)
    bias = torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf)
    rest = {name: value for name, value in batch.items() if name != "treepack"}
    return [{**rest, "attention_mask": bias[None, None]}]


def unpadded(batch: tp.PackedBatch) -> list[Inputs]:
    """Each annotation with its root in a row of its own."""
    return [_alone(batch, leaf) for leaf in _leaves(batch)]


def padded(batch: tp.PackedBatch) -> list[Inputs]:
    """One annotation of the row in a row of its own, which is as long as the pack's."""
    alone = _alone(batch, _leaves(batch)[0])
    total = batch["input_ids"].shape[1]
    missing = total - alone["input_ids"].shape[1]
    alone["input_ids"] = nn.functional.pad(alone["input_ids"], (0, missing))
    return [{**alone, "position_ids": torch.arange(total)[None]}]


METHODS: dict[str, tuple[str, Callable[[tp.PackedBatch], list[Inputs]]]] = {
    "packed trees": ("treepack", packed),
    "dense bias on the same row": ("sdpa", dense),
    "one annotation a row, not padded": ("sdpa", unpadded),
    "one annotation a row, padded": ("sdpa", padded),
}


def _leaves(batch: tp.PackedBatch) -> list[int]:
    mask = batch["treepack"].mask
    return (mask.subtree_end == mask.node_end).nonzero()[0].tolist()


def _alone(batch: tp.PackedBatch, leaf: int) -> Inputs:
    """The path to a leaf and the targets of the leaf, as a row of stock causal attention."""
    mask = batch["treepack"].mask
    path, node = [], leaf
    while node >= 0:
        path[:0] = range(mask.node_start[node], mask.node_end[node])
        node = int(mask.node_parent[node])
    places = {token: place for place, token in enumerate(path)}
    # Targets of the leaf follow each other; its first is predicted by the last token before it.
    owners = _target_owners(batch)
    mine = torch.tensor([i for i, owner in enumerate(owners) if owner == leaf])
    predicting = batch["logits_to_keep"][mine].tolist()
    targets = batch["targets"][:, mine]
    return {
        "input_ids": batch["input_ids"][:, path],
        "position_ids": torch.arange(len(path))[None],
        "logits_to_keep": torch.tensor([places[token] for token in predicting]),
        "labels": targets,
        "targets": targets,
        "loss_weights": batch["loss_weights"][:, mine],
        "use_cache": False,
    }


def _target_owners(batch: tp.PackedBatch) -> list[int]:
    """The leaf of each target: targets come leaf by leaf, and each leaf's end with its end."""
    ends = (batch["targets"][0] == sft_rows.END).tolist()
    leaves, place, owners = _leaves(batch), 0, []
    for is_end in ends:
        owners.append(leaves[place])
        place += is_end
    return owners


def to_device(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Everything on the device, and a bias in the dtype of the model."""

    def move(name: str, value: Any) -> Any:
        if name == "attention_mask":
            return value.to(device, dtype)
        return value.to(device) if hasattr(value, "to") else value

    return {name: move(name, value) for name, value in inputs.items()}


class Result(NamedTuple):
    """Loss sum over a batch of rows, seconds, and the memory that was needed at most."""

    loss: float
    seconds: float
    gigabytes: float


def step(model: nn.Module, rows: list[Inputs], weight: Tensor) -> Result:
    """Forward and backward over the rows of a method, which share one pack's weight."""
    _wait()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    model.zero_grad()
    start, total = time.perf_counter(), 0.0
    for row in rows:
        loss = model(**row, num_items_in_batch=weight).loss
        loss.backward()
        total = total + loss.detach()
    _wait()
    seconds = time.perf_counter() - start
    memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    return Result(float(total), seconds, memory)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(model: nn.Module, batch: tp.PackedBatch, rounds: int) -> dict[str, Result]:
    """The median of each method on a pack, round-robin. What runs out of memory is left out."""
    device, dtype = model.device, model.dtype
    weight = batch["loss_weights"].sum().to(device)
    results: dict[str, list[Result]] = {name: [] for name in METHODS}
    for _ in range(rounds):
        for name, (attention, build) in METHODS.items():
            model.set_attn_implementation(attention)
            try:
                rows = [to_device(row, device, dtype) for row in build(batch)]
                results[name].append(step(model, rows, weight))
            except torch.cuda.OutOfMemoryError:
                continue
            finally:
                rows = []
    medians = {name: _median(found) for name, found in results.items() if found}
    _check(batch, medians, dtype)
    return medians


def _median(results: list[Result]) -> Result:
    return results[0]._replace(seconds=statistics.median(r.seconds for r in results))


def _check(batch: tp.PackedBatch, results: dict[str, Result], dtype: torch.dtype) -> None:
    # Rows of their own are causal, so they compute the same where the pack is causal too.
    same = 3 if batch["treepack"].mask.bidirectional == "none" else 2
    losses = [results[name].loss for name in list(METHODS)[:same] if name in results]
    assert max(losses) - min(losses) < (0.05 if dtype == torch.bfloat16 else 1e-4), losses


def report(packs: list[tp.PackedBatch], results: list[dict[str, Result]]) -> None:
    """Annotations per second of each method over all packs, and in times of ours."""
    counts = [sft_rows.annotations(batch) for batch in packs]
    print(f"{'':34}{'s a row':>9}{'annotations/s':>15}{'ours is':>10}{'GB':>8}")
    rates = {}
    for name in METHODS:
        if any(name not in result for result in results):
            print(f"{name:34} out of memory")
            continue
        found = [result[name] for result in results]
        seconds = sum(result.seconds for result in found)
        done = len(packs) if METHODS[name][1] is padded else sum(counts)
        rates[name] = done / seconds
        rows = done if name.startswith("one") else len(packs)
        times = f"{rates['packed trees'] / rates[name]:.1f} x"
        memory = max(result.gigabytes for result in found)
        shown = f"{memory:.1f}" if memory else ""
        print(f"{name:34}{seconds / rows:9.3f}{rates[name]:15.2f}{times:>10}{shown:>8}")


def describe(shape: Shape, packs: list[tp.PackedBatch]) -> str:
    """One line for the model and one for its rows."""
    n = len(packs)
    masks = [batch["treepack"].mask for batch in packs]
    examples = sum(mask.n_examples for mask in masks) / n
    branches = sum(map(sft_rows.annotations, packs)) / n
    fill = sum(mask.used for mask in masks) / n / shape.total
    area = sum(mask.area for mask in masks) / n / (shape.total**2 / 2)
    return (
        f"{shape}\n{n} packs: {examples:.1f} examples and {branches:.1f} annotations each, "
        f"{fill:.0%} full, {area:.0%} of the causal pairs"
    )


def main() -> None:
    """Compare on the best device there is."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="real" if cuda else "small")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--total", type=int, help="tokens of a row, at least 2,048")
    parser.add_argument("--mode", default="image_tokens", help="none, image_tokens, within_image")
    parser.add_argument("--packs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    given = {"layers": options.layers, "total": options.total}
    shape = SHAPES[options.shape]._replace(**{k: v for k, v in given.items() if v})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(shape, torch.device("cuda" if cuda else "cpu"))
    packs = sft_rows.draw_rows(options.packs, shape.total, shape.vocabulary, options.mode)
    print(machine.describe())
    print(describe(shape, packs))
    report(packs, [measure(model, batch, options.rounds) for batch in packs])


if __name__ == "__main__":
    main()
