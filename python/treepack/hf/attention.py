"""The attention function that transformers calls, under the name ``treepack``."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from treepack._packages import needing
from treepack.attention import backends
from treepack.attention.ops import tree_attention
from treepack.batch.layout import PREFIX, WITHIN
from treepack.errors import AttentionError
from treepack.hf.checks import sees_ahead
from treepack.hf.sequence.shard import Shard
from treepack.options import AttentionBackend

NAME = "treepack"

UNSUPPORTED = {
    "s_aux": "attention sinks",
    "position_bias": "a position bias",
    "indices": "sparse attention",
}
"""Arguments by which models change what attention computes, and what they ask for."""


def register(backend: AttentionBackend | None = None) -> str:
    """Make ``attn_implementation={"text_config": "treepack"}`` known to transformers.

    `prepare` calls it; call it yourself for a model without a language-model head. The mask comes
    with the batch, so no mask function is registered, and transformers builds no mask. Registering
    twice changes nothing.

    Args:
        backend: that of `treepack.tree_attention`; by default the one of the device.

    Returns:
        The name of the implementation: ``"treepack"``, or with a backend ``"treepack_<backend>"``,
        such as ``"treepack_flex"``.

    Raises:
        AttentionError: there is no such backend.

    Source:
        ``AttentionInterface`` of transformers.

    Example:
        >>> from transformers import AttentionInterface
        >>> register()
        'treepack'
        >>> "treepack" in AttentionInterface()
        True
    """
    with needing("hf", "treepack.hf.register"):
        from transformers import AttentionInterface
    if backend is None:
        AttentionInterface.register(NAME, tree_attention_forward)
        return NAME
    if backend != "flex":
        backends.load(backend)
    name = f"{NAME}_{backend}"
    AttentionInterface.register(name, functools.partial(tree_attention_forward, backend=backend))
    return name


def tree_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    treepack: Any = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    backend: AttentionBackend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend over a packed row, as transformers calls it; whatever cannot be exact is rejected.

    Args:
        module: the attention layer that calls.
        query: ``[1, H, T, D]``, in the dtype of the model.
        key: ``[1, Hk, T, D]``.
        value: ``[1, Hk, T, Dv]``; ``Dv`` is not ``D`` in multi-head latent attention.
        attention_mask: must be ``None``.
        dropout: must be 0.
        scaling: of the scores; ``D ** -0.5`` by default.
        sliding_window: tokens of its path that a token sees, itself included, or ``None``.
        treepack: ``batch["treepack"]``, which ``model(**batch)`` passes on to every layer; of a
            sequence-parallel model this rank's `Shard` of it, and ``T`` are its tokens.
        is_causal: must not be ``False``; by default what the layer says of itself.
        softcap: of the scores; the backend ``"flex"`` alone has it.
        backend: see `treepack.tree_attention`.
        kwargs: what else the model passes on; no argument that changes attention may be among it.

    Returns:
        ``[1, T, H, Dv]`` and no attention weights.

    Raises:
        AttentionError: the batch lost its mask, the row is not the mask's, or the layer asks for
            attention that is not causal, with dropout or with sinks, or soft-capped without flex;
            or image tokens of the row see others than the configuration of the layer says.

    Example:
        >>> import torch, treepack as tp
        >>> mask = tp.TreeMask.from_nodes([2, 1, 1], [-1, 0, 0])
        >>> x = torch.ones(1, 2, 4, 8)  # batch, heads, tokens, head size
        >>> out, _ = tree_attention_forward(torch.nn.Identity(), x, x, x, None, treepack=mask)
        >>> out.shape
        torch.Size([1, 4, 2, 8])
    """
    if treepack is None:
        raise AttentionError(
            f"{_name(module)} got no mask: the model was prepared for packed batches and this one "
            "has no 'treepack'; pass the PackedBatch whole, as model(**batch) (in a Trainer: "
            "remove_unused_columns=False), or leave packing for a plain forward or generate(): "
            "with tp.hf.restore(model): ..."
        )
    shard = treepack if isinstance(treepack, Shard) else None
    row = treepack if shard is None else shard.row
    _check_causality(module, is_causal)
    _check_layer(module, dropout, kwargs)
    _check_images(module, row, sliding_window)
    if softcap is not None and backend != "flex":
        raise AttentionError(
            f"{_name(module)} asks for soft-capped scores ({softcap=}), which varlen kernels do "
            'not compute; prepare the model with backend="flex"'
        )
    _check_row(module, query, key, attention_mask)
    total = query.shape[2] if shard is None else shard.check_part(query, _name(module))
    window = sliding_window
    if window is not None and window >= total and not _is_special(row):
        # A row that fits into it needs no plan of its own, nor a guard in a compiled graph.
        window = None
    attend = functools.partial(
        _attend, row=row, scaling=scaling, window=window, softcap=softcap, backend=backend
    )
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = attend(q, k, v) if shard is None else shard.attend(attend, q, k, v)
    return out[None], None


def _attend(q: Tensor, k: Tensor, v: Tensor, row: Any, scaling: Any, **options: Any) -> Tensor:
    size, width = k.shape[-1], v.shape[-1]
    if width != size:
        # Multi-head latent attention; kernels want heads of one size, and zeros add nothing.
        scaling = size**-0.5 if scaling is None else scaling
        q, k, v = (_widened(x, max(size, width)) for x in (q, k, v))
    return tree_attention(q, k, v, row, scaling, **options)[..., :width]


def _widened(x: Tensor, size: int) -> Tensor:
    return x if x.shape[-1] == size else pad(x, (0, size - x.shape[-1]))


def _name(module: torch.nn.Module) -> str:
    index = getattr(module, "layer_idx", None)
    return type(module).__name__ + ("" if index is None else f" of layer {index}")


def _check_causality(module: torch.nn.Module, is_causal: bool | None) -> None:
    own = getattr(module, "is_causal", True)
    is_causal = own if is_causal is None else is_causal
    # Where a prompt sees ahead layers say so, and the mask of the row has it.
    if not is_causal and sees_ahead(getattr(module, "config", None)) != PREFIX:
        raise AttentionError(
            f"{_name(module)} is not causal, but the mask is; select treepack for the text model "
            'alone: attn_implementation={"text_config": "treepack"}'
        )


def _check_layer(module: torch.nn.Module, dropout: float, kwargs: dict[str, Any]) -> None:
    if dropout > 0:
        raise AttentionError(
            f"{_name(module)} asks for dropout {dropout}, and varlen kernels have no dropout; "
            "set attention_dropout=0.0 in the model's text config"
        )
    for argument, meaning in UNSUPPORTED.items():
        if kwargs.get(argument) is not None:
            raise AttentionError(
                f"{_name(module)} asks for {meaning} ({argument}=), which treepack does not "
                "compute; train this model with one example a row and its own attention"
            )


def _is_special(row: Any) -> bool:
    """Whether only models that say so in their configuration have layers that see so."""
    return getattr(row, "sliding_mask", None) is not None


def _check_images(module: torch.nn.Module, row: Any, window: int | None) -> None:
    """Reject a row whose image tokens see others than the configuration of the layer says."""
    config = getattr(module, "config", None)
    wanted = sees_ahead(config)
    if wanted is None and not _is_special(row):
        # The family alone knows. Nothing more is read, so that a compiled graph guards no more.
        return
    given = getattr(row, "bidirectional", None)
    if wanted is None:
        wants, fix = "causal text and one mask for all layers", "leave bidirectional out"
    else:
        if given == wanted or (given is None and wanted != PREFIX):
            if wanted == WITHIN and window is not None:
                _check_whole(module, row, window)
            return
        told = getattr(config, "use_bidirectional_attention", None)
        wants = f"bidirectional={wanted!r} (its config has use_bidirectional_attention={told!r})"
        fix = f"pass bidirectional={wanted!r} to PackedDataset or collate"
    raise AttentionError(
        f"{_name(module)} needs {wants}, and the row was made with bidirectional={given!r}, so its "
        f"image tokens would see others than they do in the model; {fix}"
    )


def _check_whole(module: torch.nn.Module, row: Any, window: int) -> None:
    """Reject an image that the window of a row cuts, and that of the model does not."""
    longest = getattr(row, "longest_image", 0)
    if longest > window:
        raise AttentionError(
            f"{_name(module)} lets an image of {longest} tokens see all of itself, and in a packed "
            f"row its sliding window of {window} would cut it; make images smaller"
        )


def _check_row(
    module: torch.nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None
) -> None:
    if attention_mask is not None:
        raise AttentionError(
            f"{_name(module)} got an attention_mask of shape {tuple(attention_mask.shape)} beside "
            "the batch's own mask; leave it out"
        )
    if query.shape[0] != 1:
        raise AttentionError(
            f"{_name(module)} got a batch of {query.shape[0]} rows; a packed batch is one row, so "
            "use DataLoader(dataset, batch_size=None)"
        )
    if query.shape[2] != key.shape[2]:
        raise AttentionError(
            f"{_name(module)} got {query.shape[2]} queries and {key.shape[2]} keys; "
            "a packed row has no cache: pass use_cache=False"
        )
