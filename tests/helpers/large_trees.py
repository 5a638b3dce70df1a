"""Random trees of which some are larger than a row; every token of a stream is another one."""

from __future__ import annotations

import itertools

import numpy as np
import treepack as tp

BUDGETS = {"tokens": 40, "crops": 6}


def large_tree(rng, ids, key=None, most_branches=14, has_roles=True):
    """A root with or without media and targets, and branches that fit into a row with it."""
    n, crops = int(rng.integers(1, 12)), int(rng.integers(0, 5))
    pairs = has_roles and rng.random() < 0.3
    children = []
    for number in range(int(rng.integers(0, most_branches))):
        role = ("chosen", "rejected")[number % 2] if pairs else None
        # Two of a pair have to fit beside the root.
        children.append(branch(rng, ids, 13 if pairs else 27, role))
    return tp.MessageTree(
        **node(rng, ids, n),
        children=children,
        key=key,
        image_runs=[[0, 1, 0]] if crops else None,
        media={"pixels": rng.normal(size=(crops, 2)).astype(np.float32)},
        root_positions=rng.integers(0, 50, (3, n)) if rng.random() < 0.3 else None,
        costs={"crops": crops},
    )


def node(rng, ids, n):
    tokens = np.array(list(itertools.islice(ids, n)), np.int64)
    labels = np.where(rng.random(n) < 0.5, tokens, -100) if rng.random() < 0.7 else None
    weight = rng.random(n) if rng.random() < 0.5 else float(rng.random())
    end = next(ids) if n and rng.random() < 0.5 else None
    return {"tokens": tokens, "labels": labels, "weight": weight, "end_target": end}


def branch(rng, ids, most, role=None):
    n = int(rng.integers(0, most + 1))
    children, left = [], most - n
    while left > 2 and rng.random() < 0.3:
        size = int(rng.integers(1, left))
        children.append(branch(rng, ids, size))
        left -= children[-1].n_tokens
    return tp.MessageTree(**node(rng, ids, n), children=children, role=role)


def large_trees(rng, n, **options):
    ids = itertools.count(1)
    return [large_tree(rng, ids, f"example {i}", **options) for i in range(n)]


def trained(batches):
    """What rows are trained on: the token that predicts, the target, its weight; sorted."""
    found = []
    for batch in batches:
        said = batch["input_ids"][0][batch["logits_to_keep"]].tolist()
        targets, weights = batch["targets"][0].tolist(), batch["loss_weights"].flatten().tolist()
        found += zip(said, targets, weights, strict=True)
    return sorted(found)
