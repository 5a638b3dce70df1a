"""Message trees in, one packed row out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from treepack._core import TreeMask
from treepack.attention import TreePlan
from treepack.batch.channels import channels_of
from treepack.batch.layout import PREFIX, RowLayout, Targets
from treepack.batch.packed_batch import PackedBatch
from treepack.batch.packed_row import PackedRow
from treepack.batch.stand_in import StandIn
from treepack.errors import BatchError
from treepack.options import Bidirectional, MediumKind

if TYPE_CHECKING:
    from treepack.tree import MessageTree

Array = npt.NDArray[Any]


class CollateFamily(Protocol):
    """What `collate` needs of a model family; see `treepack.families.Family`."""

    @property
    def bidirectional(self) -> Bidirectional:
        """Which image tokens see later ones, as `collate` names it."""

    def collate(
        self, trees: Sequence[MessageTree], total: int, fill: bool | Collection[str] = False
    ) -> Mapping[str, Array]:
        """The inputs of the row that only this family has, such as ``pixel_values``."""

    def fill_tokens(
        self, trees: Sequence[MessageTree], fill: bool | Collection[str]
    ) -> npt.NDArray[np.int64]:
        """What stands in ``input_ids`` on the first padding of a row that lacks media."""

    def position_ids(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Position ids in the shape that the model takes, from int64 ``[A, total]``."""


def collate(
    trees: Iterable[MessageTree],
    *,
    family: CollateFamily | None = None,
    total: int | None = None,
    bidirectional: Bidirectional | None = None,
    budgets: Mapping[str, int] | None = None,
    state: Any = None,
    sliding_windows: Iterable[int] = (),
    vision_on_every_row: bool | MediumKind | Collection[MediumKind] = False,
) -> PackedBatch:
    """Lay message trees one after the other into a row that a model takes.

    Args:
        trees: the examples of the row, in order; at least one. They are not modified.
        family: how the model wants media and positions; ``None`` concatenates every media array on
            its first axis and gives positions as ``[1, total]`` (or ``[A, 1, total]``).
        total: length of the row in tokens, at least the tokens of all trees; the rest is padding,
            which neither sees nor is seen, but goes through every other layer of the model.
            ``None`` pads nothing.
        bidirectional: which image tokens see later ones: ``"none"``, ``"image_tokens"`` (those of
            one example), ``"within_image"``, or ``"within_image_sliding"``, which is
            ``"within_image"`` in layers with a sliding window alone, as of Gemma 4 with
            ``use_bidirectional_attention="vision"``; or ``"prefix"``, where all tokens of a root
            see each other, as of PaliGemma; by default the family's, else ``"none"``.
        budgets: capacity of a row by name; ``batch["treepack"].stats`` then has how full each is.
        state: where the stream stands, for ``batch["treepack"].state``; or a function that can be
            pickled and makes it when it is first read.
        sliding_windows: of the model's attention layers, in tokens, from
            ``treepack.hf.sliding_windows(model)``; each costs one more plan of the row. Windows
            that are left out are planned at their first use, which a compiled model cannot do.
        vision_on_every_row: kinds of media, or ``True`` for all, for which the vision tower runs on
            this row even if it has none: the smallest medium is added on padding, without effect.

    Returns:
        A `PackedBatch` on the CPU.

    Raises:
        BatchError: ``trees`` or ``sliding_windows`` is not a list of them, media do not join, a
            node lacks a channel, or ``total`` is no integer or too small.
        AttentionError: a sliding window that is no integer of 1 or more.
        TreeError: image runs that the mask cannot express, or no such mode of ``bidirectional``.
        MemoryError: there is no room for the row.

    Source:
        Molmo2, arXiv 2601.10611; transformers' padding-free ``DataCollatorWithFlattening``.

    Example:
        >>> import treepack as tp
        >>> branch = tp.MessageTree([5, 6], labels=[5, 6])
        >>> batch = tp.collate([tp.MessageTree([1, 2, 3], children=[branch, branch])])
        >>> batch["logits_to_keep"].tolist(), batch["targets"].tolist()
        ([2, 3, 2, 5], [[5, 6, 5, 6]])
        >>> batch["position_ids"].tolist()
        [[0, 1, 2, 3, 4, 3, 4]]
    """
    row = RowLayout(trees, total)
    filler = _fill_tokens(row.trees, family, vision_on_every_row)
    if total is None:
        row.total += len(filler)
    mode: Bidirectional = bidirectional or (family.bidirectional if family else "none")
    mask, sliding_mask = row.masks(mode)
    targets = row.targets(mask)
    batch = _inputs(row, mask, targets, family, filler, _media(row, family, vision_on_every_row))
    packed = batch["treepack"] = PackedRow(
        mask,
        TreePlan.from_mask(mask),
        row.keys,
        row.stats(mask, len(targets.token), budgets),
        state,
        target_counts=targets.counts,
        roles=row.roles,
        sliding_mask=sliding_mask,
        bidirectional=mode if row.has_images or mode == PREFIX else None,
        channels=channels_of(row, targets.counts),
        response_ids=row.response_ids,
    )
    _plan_windows(packed, sliding_windows)
    return batch


def _inputs(
    row: RowLayout,
    mask: TreeMask,
    targets: Targets,
    family: CollateFamily | None,
    filler: npt.NDArray[np.int64],
    media: Mapping[str, Array],
) -> PackedBatch:
    """What the model is given beside the row itself; stand-ins for the mask and the labels."""
    arrays = {
        "input_ids": row.input_ids(mask.total, filler)[None],
        "position_ids": _position_ids(mask.positions(row.root_positions()), family),
        **media,
        "logits_to_keep": targets.position,
        "targets": targets.token[None],
        "loss_weights": targets.weight[None],
    }
    batch = PackedBatch((name, _tensor(value)) for name, value in arrays.items())
    batch["use_cache"] = False
    batch.update((name, StandIn(name)) for name in ("attention_mask", "labels"))
    return batch


def _fill_tokens(
    trees: list[MessageTree], family: CollateFamily | None, fill: bool | Collection[str]
) -> npt.NDArray[np.int64]:
    if not fill:
        return np.empty(0, np.int64)
    if family is None:
        raise BatchError(
            "vision_on_every_row needs the family of the model, which knows its smallest image; "
            "pass processor= or family="
        )
    return family.fill_tokens(trees, fill)


def _media(
    row: RowLayout, family: CollateFamily | None, fill: bool | Collection[str]
) -> Mapping[str, Array]:
    if family is None:
        return concatenate_media(row.trees)
    # Families of users need not know of it as long as nobody asks for it.
    options = {"fill": fill} if fill else {}
    return family.collate(row.trees, row.total, **options)


def _plan_windows(packed: PackedRow, windows: Iterable[int]) -> None:
    if not isinstance(windows, Iterable):
        raise BatchError(
            f"sliding_windows is {windows!r}, not a list of windows in tokens; pass "
            "treepack.hf.sliding_windows(model), or [w]"
        )
    for window in windows:
        packed.plan_for(window)


def concatenate_media(trees: Sequence[MessageTree]) -> dict[str, Array]:
    """Every media array of the trees, concatenated on its first axis in the order of the row."""
    parts: dict[str, list[Array]] = {}
    for tree in trees:
        for name, value in (tree.media or {}).items():
            parts.setdefault(name, []).append(value)
    return {name: _concatenate(name, values) for name, values in parts.items()}


def _concatenate(name: str, values: list[Array]) -> Array:
    try:
        return values[0] if len(values) == 1 else np.concatenate(values)
    except Exception as error:
        # Tensors have errors of their own, as when one wants a gradient.
        shapes = sorted({tuple(value.shape) for value in values})
        raise BatchError(
            f"media {name!r} of one row have shapes {shapes} and do not concatenate on axis 0: "
            f"{error}; give them equal trailing axes or use a family that pads them"
        ) from error


def _position_ids(
    positions: npt.NDArray[np.int64], family: CollateFamily | None
) -> npt.NDArray[np.int64]:
    if family is not None:
        return family.position_ids(positions)
    return positions if len(positions) == 1 else positions[:, None]


def _tensor(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    # A read-only array, or a view of somebody's, must not become a tensor that could write to it.
    is_ours = value.flags.writeable and not isinstance(value.base, np.ndarray)
    return torch.from_numpy(value if is_ours else value.copy())
