"""The usual way, in stock transformers: one annotation a sequence, sequences padded alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
import treepack as tp
from report import LEARNING_RATE, Run
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import DataLoader, Dataset
from treepack.families import find

IGNORE = -100
MICRO_BATCH = 4


class Annotations(Dataset):
    """Every conversation by itself, with a copy of its media."""

    def __init__(self, source: Sequence[tp.Conversations], processor: Any) -> None:
        self.source = source
        self.family = find(processor)
        self.places = [(i, turns) for i, example in enumerate(source) for turns in example.branches]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tp.MessageTree:
        place, turns = self.places[index]
        example = self.source[place]
        alone = tp.Conversations(
            [turns], example.media, example.texts, example.system, key=example.key
        )
        return self.family.load(alone)

    def loader(self, steps: Iterable[Sequence[int]], total: int | None, workers: int) -> DataLoader:
        """The annotations of each step in batches, padded to ``total`` or to their longest."""
        return DataLoader(
            self,
            batch_sampler=[batch for step in steps for batch in batches_of(step)],
            num_workers=workers,
            collate_fn=partial(collate, family=self.family, total=total),
        )


def batches_of(step: Sequence[int]) -> list[Sequence[int]]:
    """A step, cut into batches."""
    return [step[i : i + MICRO_BATCH] for i in range(0, len(step), MICRO_BATCH)]


def collate(trees: list[tp.MessageTree], family: Any, total: int | None) -> dict[str, Any]:
    """A stock batch ``[B, S]`` of single paths, with EOS as the last input and label."""
    paths = [_path(tree) for tree in trees]
    longest = max(len(ids) for ids, _ in paths)
    length = max(longest, total or 0)
    types = torch.zeros(len(trees), length, dtype=torch.long)
    for number, tree in enumerate(trees):
        for start, end, _ in () if tree.image_runs is None else tree.image_runs.tolist():
            types[number, start:end] = 1
    media = family.collate(trees, sum(tree.n_tokens for tree in trees))
    # Only some processors say which tokens are images.
    named = next((name for name in media if name.endswith("token_type_ids")), "mm_token_type_ids")
    inputs = {
        **{name: torch.as_tensor(value) for name, value in media.items()},
        "input_ids": _stack((ids for ids, _ in paths), length, 0),
        "attention_mask": _stack((torch.ones_like(ids) for ids, _ in paths), length, 0),
        "labels": _stack((labels for _, labels in paths), length, IGNORE),
        named: types,
    }
    names = [(tree.key, tuple(_nodes(tree)[-1].tokens.tolist())) for tree in trees]
    return {"inputs": inputs, "names": names}


def train(
    model: torch.nn.Module,
    loader: DataLoader,
    steps: Sequence[Sequence[int]],
    run: Run,
    advance: Callable,
) -> None:
    """One epoch; every target of a step weighs the same, as it does in a packed row."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    stream = iter(loader)
    for step in steps:
        batches = list(islice(stream, len(batches_of(step))))
        counts = [int((batch["inputs"]["labels"] != IGNORE).sum()) for batch in batches]
        for batch, count in zip(batches, counts, strict=True):
            output = model(**to(batch["inputs"], model), use_cache=False)
            (output.loss * (count / sum(counts))).backward()
            record(run, batch, output.logits)
            advance(len(batch["names"]))
        optimizer.step()
        optimizer.zero_grad()
        run.steps += 1


@torch.no_grad()
def losses(
    model: torch.nn.Module, loader: DataLoader, advance: Callable
) -> list[tuple[Any, float]]:
    """Name and mean loss of each annotation, in the order of the loader."""
    found: list[tuple[Any, float]] = []
    for batch in loader:
        inputs = to(batch["inputs"], model)
        labels = inputs.pop("labels")[:, 1:]
        logits = model(**inputs, use_cache=False).logits[:, :-1].float()
        each = cross_entropy(logits.mT, labels, reduction="none", ignore_index=IGNORE)
        means = each.sum(1) / (labels != IGNORE).sum(1)
        found += zip(batch["names"], means.tolist(), strict=True)
        advance(len(batch["names"]))
    return found


def record(run: Run, batch: dict[str, Any], logits: torch.Tensor) -> None:
    """Add what a batch took."""
    inputs = batch["inputs"]
    run.sequences += len(inputs["input_ids"])
    run.annotations += len(batch["names"])
    run.tokens += inputs["input_ids"].numel()
    run.useful += int(inputs["attention_mask"].sum())
    run.visual += len(inputs.get("pixel_values", ()))
    run.logits += logits.shape[:-1].numel()


def to(inputs: dict[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The inputs where the model is, pixels in its precision."""
    weight = next(model.parameters())
    return {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _nodes(tree: tp.MessageTree) -> list[tp.MessageTree]:
    return [node for node, _ in tree.nodes()]


def _path(tree: tp.MessageTree) -> tuple[torch.Tensor, torch.Tensor]:
    ids, labels = [], []
    for node in _nodes(tree):
        ids += node.tokens.tolist()
        labels += [IGNORE] * len(node.tokens) if node.labels is None else node.labels.tolist()
    end = node.end_target
    return torch.tensor([*ids, end]), torch.tensor([*labels, end])


def _stack(sequences: Iterator[torch.Tensor], length: int, filler: int) -> torch.Tensor:
    return torch.stack([pad(ids, (0, length - len(ids)), value=filler) for ids in sequences])
