"""Which layer of a model is the first to give a path other numbers in a row than alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from treepack.check.paths import Path
from treepack.hf.model import is_packed, prepare, restore

Outputs = dict[str, torch.Tensor]


def first_that_differs(model: Any, batch: Any, path: Path, inputs: dict[str, Any]) -> str:
    """The first layer whose output of a path differs most from the one it has alone, in words.

    Args:
        model: as in `check_exact`.
        batch: the row.
        path: one of its paths.
        inputs: those of the path alone, on the device of the model.
    """
    was_packed = is_packed(model)
    if not was_packed:
        prepare(model, unchecked=True)
    try:
        with torch.no_grad():
            with _outputs(model) as packed:
                model(**batch)
            with restore(model), _outputs(model) as alone:
                model(**inputs, use_cache=False)
    finally:
        if not was_packed:
            restore(model)
    mask = batch["treepack"].mask
    where = torch.from_numpy(_places(mask, path))
    for name, kind in _layers(model):
        if name not in packed or name not in alone:
            continue
        lengths = packed[name].shape[1], alone[name].shape[1]
        if lengths != (mask.total, len(where)):
            # A layer of the vision tower: it sees patches of all images, not tokens.
            continue
        mine, theirs = packed[name][0, where.to(packed[name].device)], alone[name][0]
        error = (mine - theirs).abs().max() / theirs.abs().max()
        if not error < 1e-3 * max(1.0, float(torch.finfo(mine.dtype).eps / 1e-8)):
            return f"the first layer that is off is {name} ({kind}), by {float(error):.1e}"
    return "all layers agree up to the head, so see its inputs: logits_to_keep, or a soft cap"


def _layers(model: Any) -> Iterator[tuple[str, str]]:
    for name, module in model.named_modules():
        if getattr(module, "is_causal", None) is True or hasattr(module, "layer_idx"):
            config = getattr(module, "config", None)
            kinds: Sequence[str] = getattr(config, "layer_types", None) or ()
            index: int | None = getattr(module, "layer_idx", None)
            kind = kinds[index] if index is not None and index < len(kinds) else "attention"
            yield name, f"{type(module).__name__}, {kind}"


@contextmanager
def _outputs(model: Any) -> Iterator[Outputs]:
    """What the layers of a model give in this block, ``[1, n, hidden]`` by name."""
    found: Outputs = {}

    def hook(name: str) -> Any:
        def keep(_: Any, __: Any, out: Any) -> None:
            first = out[0] if isinstance(out, tuple) else out
            if isinstance(first, torch.Tensor) and first.ndim == 3:
                found.setdefault(name, first.detach())

        return keep

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name, _ in _layers(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _places(mask: Any, path: Path) -> Any:
    """Where the tokens of a path stand in the row, int64 ``[n]``."""
    bounds = [(int(mask.node_start[node]), int(mask.node_end[node])) for node in path.nodes]
    return np.concatenate([np.arange(start, end) for start, end in bounds])
