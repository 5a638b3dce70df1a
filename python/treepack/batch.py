"""One packed row as the model takes it: trees in, tensors and a compressed mask out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from treepack._core import TreeMask
from treepack._transfer import pack_tensors, unpack_tensors
from treepack.attention import TreePlan
from treepack.errors import BatchError
from treepack.rows import Row

if TYPE_CHECKING:
    from treepack.attention.flex import Blocks
    from treepack.tree import MessageTree

Array = npt.NDArray[Any]


class CollateFamily(Protocol):
    """What `collate` needs of a model family."""

    @property
    def bidirectional(self) -> str:
        """Mode of attention among image tokens."""

    def collate(self, trees: Sequence[MessageTree], total: int) -> Mapping[str, Array]:
        """The inputs of the row that only this family has, such as ``pixel_values``."""

    def position_rows(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Position ids in the shape that the model takes."""


class PackedRow:
    """The row's mask and what happened to it; not a tensor, so nothing moves it by accident.

    Attributes:
        mask: the `TreeMask` of the row.
        plan: the same as attention calls, on the device of the row.
        keys: keys of the examples, in order of the row.
        stats: numbers for a logger, by name: fill of each budget, examples, branches, targets.
        state: where the loader stands after this row (see `PackedDataset`), or ``None``.
    """

    __slots__ = ("__weakref__", "_blocks", "_windows", "keys", "mask", "plan", "state", "stats")

    def __init__(
        self,
        mask: TreeMask,
        plan: TreePlan,
        keys: Sequence[Any] = (),
        stats: Mapping[str, float] | None = None,
        state: Any = None,
        windows: Mapping[int, TreePlan] | None = None,
    ) -> None:
        self.mask = mask
        self.plan = plan
        self.keys = list(keys)
        self.stats = dict(stats or {})
        self.state = state
        self._windows = dict(windows or {})
        self._blocks: dict[int | None, Blocks] = {}

    def plan_for(self, window: int) -> TreePlan:
        """The plan of layers with a sliding window, on the device of the row.

        Made at its first use, once for each window, and moved with the row. ``torch.compile``
        cannot trace the making: let `collate` do it, or call this before a compiled model.

        Args:
            window: tokens of its path that a query sees, itself included.
        """
        if window not in self._windows:
            device = self.plan.plan.device
            self._windows[window] = TreePlan.from_mask(self.mask, window).to(device)
        return self._windows[window]

    def blocks_for(self, window: int | None = None) -> Blocks:
        """The mask as FlexAttention takes it, on the device of the row, for ``backend="flex"``.

        Made at its first use, once for each window. ``torch.compile`` cannot trace the making: call
        this before a compiled model, after the row has been moved.

        Args:
            window: tokens of its path that a query sees, or ``None`` for all.
        """
        if window not in self._blocks:
            from treepack.attention.flex import make_blocks

            self._blocks[window] = make_blocks(self.mask, self.plan.plan.device, window)
        return self._blocks[window]

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> PackedRow:
        """The same row with its plans on another device: a copy of each, no synchronisation."""
        return self._with(lambda plan: plan.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedRow:
        """The same row with its plans in page-locked memory."""
        return self._with(lambda plan: plan.pin_memory())

    def _with(self, move: Callable[[TreePlan], TreePlan]) -> PackedRow:
        windows = {window: move(plan) for window, plan in self._windows.items()}
        return PackedRow(self.mask, move(self.plan), self.keys, self.stats, self.state, windows)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.mask, self.plan, self.keys, self.stats, self.state, self._windows)
        return PackedRow, parts

    def __repr__(self) -> str:
        return f"PackedRow(keys={self.keys!r}, mask={self.mask!r})"


class PackedBatch(dict[str, Any]):
    """What ``model(**batch)`` takes, and nothing else.

    The keys are those of transformers, in the padding-free layout ``[1, total]``:

    - ``input_ids`` int64 ``[1, total]``; ``position_ids`` int64 as the model wants them;
    - ``logits_to_keep`` int64 ``[L]``: the row positions whose hidden state predicts a target, with
      repeats where several branches start at one token;
    - ``labels`` and ``shift_labels`` int64 ``[1, L]``: the target tokens, already aligned;
    - ``loss_weights`` float32 ``[1, L]``;
    - ``treepack``: the `PackedRow`, which the attention function reads;
    - ``use_cache`` False, and what the family adds (``pixel_values``, ...).
    """

    def to(
        self,
        device: torch.device | str | int,
        non_blocking: bool = False,
        dtype: torch.dtype | None = None,
    ) -> PackedBatch:
        """A batch with every tensor and the mask on ``device``; the original is unchanged.

        Args:
            device: where to.
            non_blocking: copy without waiting; needs `pin_memory` to be of use.
            dtype: also cast floating-point model inputs such as ``pixel_values``; loss weights
                keep their precision.
        """

        def move(name: str, value: Any) -> Any:
            if isinstance(value, PackedRow):
                return value.to(device, non_blocking=non_blocking)
            if not isinstance(value, torch.Tensor):
                return value
            casts = dtype is not None and value.is_floating_point() and name != "loss_weights"
            return value.to(device, dtype if casts else value.dtype, non_blocking=non_blocking)

        return PackedBatch((name, move(name, value)) for name, value in self.items())

    def pin_memory(self) -> PackedBatch:
        """A batch in page-locked memory, for asynchronous copies to a GPU."""
        pinned = (
            (name, value.pin_memory() if hasattr(value, "pin_memory") else value)
            for name, value in self.items()
        )
        return PackedBatch(pinned)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, pack_tensors(self)


def _unpickle(layout: Any, blob: bytes, rest: dict[str, Any]) -> PackedBatch:
    return PackedBatch(unpack_tensors(layout, blob, rest))


def collate(
    trees: Sequence[MessageTree],
    *,
    family: CollateFamily | None = None,
    total: int | None = None,
    bidirectional: str | None = None,
    budgets: Mapping[str, int] | None = None,
    state: Any = None,
    windows: Iterable[int] = (),
) -> PackedBatch:
    """Lay message trees one after the other into a row that a model takes.

    Args:
        trees: the examples of the row, in order. They are not modified.
        family: how the model wants media and positions; ``None`` concatenates every media array on
            its first axis and gives positions as ``[1, total]`` (or ``[A, 1, total]``).
        total: length of the row, at least the tokens of all trees; the rest is padding that neither
            sees nor is seen. ``None`` pads nothing.
        bidirectional: mode of image attention, by default the family's, else ``"none"``.
        budgets: capacities, to report how full the row is.
        state: kept as ``batch["treepack"].state``.
        windows: sliding windows of the model's layers, in tokens. Left out, they are planned at
            their first use, which a compiled model cannot do.

    Returns:
        A `PackedBatch` on the CPU.

    Raises:
        BatchError: no trees, media that cannot be concatenated, or too little room in ``total``.
        TreeError: image runs that no mask can express.

    Example:
        >>> import treepack as tp
        >>> branch = tp.MessageTree([5, 6], labels=[5, 6])
        >>> batch = tp.collate([tp.MessageTree([1, 2, 3], children=[branch, branch])])
        >>> batch["logits_to_keep"].tolist(), batch["labels"].tolist()
        ([2, 3, 2, 5], [[5, 6, 5, 6]])
        >>> batch["position_ids"].tolist()
        [[0, 1, 2, 3, 4, 3, 4]]
    """
    row = Row(trees, total)
    mode = bidirectional or (family.bidirectional if family else "none")
    mask = row.mask(mode)
    positions = mask.positions(row.root_positions())
    where, tokens, weights = row.targets(mask)
    extras = family.collate(trees, mask.total) if family else concatenate_media(trees)
    arrays = {
        "input_ids": row.input_ids(mask.total)[None],
        "position_ids": family.position_rows(positions) if family else _plain_rows(positions),
        **extras,
        "logits_to_keep": where,
        "labels": tokens[None],
        "shift_labels": tokens[None],
        "loss_weights": weights[None],
    }
    batch = PackedBatch((name, _tensor(value)) for name, value in arrays.items())
    batch["use_cache"] = False
    batch["treepack"] = PackedRow(
        mask,
        TreePlan.from_mask(mask),
        row.keys,
        row.stats(mask, len(where), budgets),
        state,
        {window: TreePlan.from_mask(mask, window) for window in windows},
    )
    return batch


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
    except ValueError as error:
        shapes = sorted({value.shape for value in values})
        raise BatchError(
            f"media {name!r} of one row have shapes {shapes}, which do not concatenate on axis 0; "
            "give them equal trailing axes or use a family that pads them"
        ) from error


def _plain_rows(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return positions if len(positions) == 1 else positions[:, None]


def _tensor(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    # A read-only array, or a view of somebody's, must not become a tensor that could write to it.
    is_ours = value.flags.writeable and not isinstance(value.base, np.ndarray)
    return torch.from_numpy(value if is_ours else value.copy())
