"""What users write, for a type checker alone: test_types.py has mypy read it, nothing runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import torch
import treepack as tp
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from treepack import options
from treepack.batch import PackedRow, StandIn


def train(model: nn.Module, processor: Any) -> None:
    """The first example of the README."""
    source = tp.group_conversations("train.jsonl", images="images/")
    assert_type(source[0], tp.Conversations)
    assert_type(source[np.int64(3)], tp.Conversations)
    assert_type(source[:10], list[tp.Conversations])

    budgets = {"tokens": 16_384, "crops": 128}
    dataset = tp.PackedDataset(source, processor=processor, budgets=budgets)
    as_torch_knows_it: IterableDataset[tp.PackedBatch] = dataset
    loader = DataLoader(as_torch_knows_it, batch_size=None, num_workers=2)
    assert_type(loader, DataLoader[tp.PackedBatch])

    tp.hf.prepare(model, logits="deferred", backend="cpu")
    batch: tp.PackedBatch
    for batch in loader:
        loss = model(**batch.to("cpu")).loss
        loss.backward()
    for batch in dataset:
        read(batch)
    for packs, weight in tp.train.steps(loader, accumulate=2, end="fill"):
        assert_type(packs, list[tp.PackedBatch])
        assert_type(weight, float)


def read(batch: tp.PackedBatch) -> None:
    """The parts of a batch."""
    assert_type(batch["input_ids"], Tensor)
    assert_type(batch["loss_weights"], Tensor)
    assert_type(batch["treepack"], PackedRow)
    assert_type(batch["treepack"].mask, tp.TreeMask)
    assert_type(batch["labels"], StandIn)
    assert_type(batch["use_cache"], bool)
    assert_type(batch["pixel_values"], Any)
    assert_type(batch.to("cpu", torch.bfloat16), tp.PackedBatch)


def without_a_processor(q: Tensor, k: Tensor, v: Tensor) -> None:
    """The second example of the README."""
    answers = [tp.MessageTree(ids, labels=ids) for ids in ([5, 6, 7], [8, 9])]
    tree = tp.MessageTree([1, 2, 3, 4], children=answers)
    batch = tp.collate([tree, tree], bidirectional="within_image", vision_on_every_row="image")
    out = tp.tree_attention(q, k, v, batch["treepack"].mask, backend="reference")
    assert_type(out, Tensor)
    assert_type(tree.tokens, npt.NDArray[np.int64])
    assert_type(tree.children, tuple[tp.MessageTree, ...])


def pack_by_cost() -> None:
    """The third example of the README, and whole tables."""
    packer = tp.Packer({"tokens": 16_384, "crops": 128}, pool_size=48, oversize="drop")
    assert_type(packer.push("coco/17", {"tokens": 3_100, "crops": 12}), tp.Pack | None)
    assert_type(packer.flush(), list[tp.Pack])

    costs = tp.costs.measure([tp.MessageTree([1])], on_error="skip")
    assert_type(costs, tp.costs.CostTable)
    assert_type(costs[0], dict[str, int])
    packs = tp.pack(costs, {"tokens": 8}, order="kept", oversize=("split", "drop"))
    assert_type(packs[0], npt.NDArray[np.int64])
    found = tp.simulate(costs, {"tokens": 8}, oversize="split")
    kinds: list[options.AdviceKind] = [advice.kind for advice in found.advice]
    print(kinds, tp.Balance(sync="micro"))


def examples() -> Iterator[tp.Conversations]:
    """Turns and media as plain tuples, and as what they are read back."""
    example = tp.Conversations([[("What is it?", "A cat.")]], [("image", "cat.png")])
    weighted = tp.Conversations([[("Where?", "Here.", 0.5)]], texts=["Look: "])
    assert_type(example.branches[0][0].answer, str)
    assert_type(example.media[0].kind, options.MediumKind)
    yield from (example, weighted)


def log_probabilities(logits: Tensor, targets: Tensor) -> None:
    """One tensor, or a pair with the entropies."""
    assert_type(tp.hf.token_logprobs(logits, targets), Tensor)
    assert_type(tp.hf.token_logprobs(logits, targets, entropy=True), tuple[Tensor, Tensor])


def mistakes(batch: tp.PackedBatch, source: tp.Mixture) -> None:
    """What a checker finds: without an error, the comment to ignore it would be one."""
    tp.Packr({"tokens": 8})  # type: ignore[attr-defined]
    tp.hf.prepar(batch)  # type: ignore[attr-defined]
    tp.PackedDataset(source, budgets={"tokens": 8}, oversize="drp")  # type: ignore[arg-type]
    tp.PackedDataset(source, budgets={"tokens": 8}, on_error="ignore")  # type: ignore[arg-type]
    tp.pack({"tokens": [1]}, {"tokens": 8}, effort="most")  # type: ignore[arg-type]
    tp.collate([], bidirectional="images")  # type: ignore[arg-type]
    tp.Conversations([[("no answer",)]])  # type: ignore[list-item]
    print(batch["treepack"].no_such_attribute)  # type: ignore[attr-defined]
