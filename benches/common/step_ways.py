"""The ways of computing a pack: the inputs of each, and what there is to compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import treepack as tp
from torch import nn

from . import sft_rows

Inputs = dict[str, Any]


class Part(NamedTuple):
    """A row that is computed.

    Attributes:
        inputs: of the model.
        leaf: the one annotation that it has; -1 where it has all.
        times: for how many annotations of the pack it stands, which cost as much.
    """

    inputs: Inputs
    leaf: int = -1
    times: int = 1

    @property
    def tokens(self) -> int:
        """Of the language model, padding among them."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def crops(self) -> int:
        """Of the vision tower."""
        return len(self.inputs["pixel_values"]) if "pixel_values" in self.inputs else 0


class Way(NamedTuple):
    """How a pack is computed, under which attention implementation of transformers."""

    attention: str
    build: Callable[[tp.PackedBatch], list[Part]]


def packed(batch: tp.PackedBatch) -> list[Part]:
    """The row as it is."""
    return [Part(dict(batch))]


def dense(batch: tp.PackedBatch) -> list[Part]:
    """The same row, its mask written out as an additive bias; what sees nothing sees itself."""
    visible = torch.from_numpy(batch["treepack"].mask.to_dense())
    visible.fill_diagonal_(True)
    bias = torch.zeros(visible.shape).masked_fill_(visible.logical_not_(), -torch.inf)
    rest = {name: value for name, value in batch.items() if name != "treepack"}
    return [Part({**rest, "attention_mask": bias[None, None]})]


def unpadded(batch: tp.PackedBatch) -> list[Part]:
    """Each annotation with its root in a row of its own."""
    mask = batch["treepack"].mask
    return [Part(alone(batch, leaf), leaf) for leaf in sft_rows.leaves_of(mask)]


def padded(batch: tp.PackedBatch) -> list[Part]:
    """An annotation in a row as long as the pack's: one of the pack, or one of each example.

    Without images all cost the same; with images those of one example do.
    """
    total = batch["treepack"].mask.total
    return [
        Part(_pad(alone(batch, group[0]), total), group[0], len(group)) for group in _alike(batch)
    ]


def skipping(batch: tp.PackedBatch) -> list[Part]:
    """The rows of `padded` under our own attention, which computes no pair with padding."""
    return [Part(_alone_in_row(batch, group[0]), group[0], len(group)) for group in _alike(batch)]


def _alike(batch: tp.PackedBatch) -> list[list[int]]:
    """Leaves by what their padded rows cost."""
    mask = batch["treepack"].mask
    groups: dict[int, list[int]] = {}
    for leaf in sft_rows.leaves_of(mask):
        group = int(mask.node_example[leaf]) if "pixel_values" in batch else 0
        groups.setdefault(group, []).append(leaf)
    return list(groups.values())


WAYS = {
    "packed trees": Way("treepack", packed),
    "dense bias on the same row": Way("sdpa", dense),
    "one annotation a row, not padded": Way("sdpa", unpadded),
    "one annotation a row, padded": Way("sdpa", padded),
    "the same, padding not attended": Way("treepack", skipping),
}


def alone(batch: tp.PackedBatch, leaf: int) -> Inputs:
    """The path to a leaf, its images and the leaf's targets, as a row of the stock model."""
    row = batch["treepack"]
    tokens = torch.cat(
        [
            torch.arange(row.mask.node_start[node], row.mask.node_end[node])
            for node in sft_rows.path(row.mask, leaf)
        ]
    )
    mine = torch.from_numpy(row.target_node == leaf)
    targets = batch["targets"][:, mine]
    inputs = {
        "input_ids": batch["input_ids"][:, tokens],
        "position_ids": torch.arange(len(tokens))[None],
        # Tokens of a path are in the order of the row.
        "logits_to_keep": torch.searchsorted(tokens, batch["logits_to_keep"][mine]),
        "labels": targets,
        "targets": targets,
        "loss_weights": batch["loss_weights"][:, mine],
        "use_cache": False,
    }
    if "mm_token_type_ids" in batch:
        inputs["mm_token_type_ids"] = batch["mm_token_type_ids"][:, tokens]
    if "pixel_values" in batch:
        inputs.update(_images(batch, int(row.mask.node_example[leaf])))
    return inputs


def _alone_in_row(batch: tp.PackedBatch, leaf: int) -> Inputs:
    """What `alone` gives, padded, as a tree of one node."""
    found = alone(batch, leaf)
    tokens, types = found["input_ids"][0], found.get("mm_token_type_ids")
    n = len(tokens)
    # The last target is the end, which is no token of the row.
    labels = torch.full((n,), -100)
    labels[found["logits_to_keep"][:-1] + 1] = found["targets"][0, :-1]
    edges = torch.diff(torch.zeros(n + 2, dtype=int).index_fill_(0, _ones(types), 1))
    starts, ends = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
    runs = torch.stack([starts, ends, torch.arange(len(starts))], 1)
    tree = tp.MessageTree(
        tokens.numpy(), labels.numpy(), end_target=sft_rows.END, image_runs=runs.numpy()
    )
    mode = "none" if types is None else batch["treepack"].mask.bidirectional
    total = batch["treepack"].mask.total
    made = dict(tp.collate([tree], total=total, bidirectional=mode))
    media = ("pixel_values", "image_token_pooling", "image_grids")
    made.update((name, found[name]) for name in media if name in found)
    if types is not None:
        made["mm_token_type_ids"] = nn.functional.pad(types, (0, total - n))
    return made


def _ones(types: torch.Tensor | None) -> torch.Tensor:
    """Places of image tokens, one further on."""
    return torch.empty(0, dtype=int) if types is None else types[0].nonzero()[:, 0] + 1


def _images(batch: tp.PackedBatch, example: int) -> Inputs:
    """Pixels of an example, which has one entry in ``image_grids`` if it has images."""
    has_images = _with_images(batch)
    if not has_images[example]:
        return {}
    place = sum(has_images[:example])
    counts = batch["image_grids"][:, 0].tolist()
    pooling = batch["image_token_pooling"][sum(counts[:place]) : sum(counts[: place + 1])]
    pixels = batch["pixel_values"]
    first, last = (int(end) // pixels.shape[1] for end in (pooling.min(), pooling.max()))
    return {
        "pixel_values": pixels[first : last + 1],
        "image_token_pooling": pooling - first * pixels.shape[1],
        "image_grids": batch["image_grids"][place : place + 1],
    }


def _with_images(batch: tp.PackedBatch) -> list[bool]:
    mask = batch["treepack"].mask
    found = []
    for example in range(mask.n_examples):
        nodes = (mask.node_example == example).nonzero()[0]
        start, end = mask.node_start[nodes[0]], mask.node_end[nodes[0]]
        found.append(bool(batch["mm_token_type_ids"][0, start:end].any()))
    return found


def _pad(inputs: Inputs, total: int) -> Inputs:
    missing = total - inputs["input_ids"].shape[1]
    for name in ("input_ids", "mm_token_type_ids"):
        if name in inputs:
            inputs[name] = nn.functional.pad(inputs[name], (0, missing))
    return {**inputs, "position_ids": torch.arange(total)[None]}
