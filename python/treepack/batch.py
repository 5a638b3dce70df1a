"""One packed row as the model takes it: trees in, tensors and a compressed mask out."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from treepack._core import TreeMask
from treepack._transfer import pack_tensors, unpack_tensors
from treepack.attention import TreePlan
from treepack.errors import BatchError
from treepack.packed_row import PackedRow
from treepack.rows import Row

if TYPE_CHECKING:
    from treepack.tree import MessageTree

__all__ = ["CollateFamily", "PackedBatch", "PackedRow", "collate", "concatenate_media"]

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
        device: torch.device | str | int | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> PackedBatch:
        """A batch with every tensor and the mask on ``device``; the original is unchanged.

        Args:
            device: where to, by default where each is; or a dtype, as for a tensor.
            dtype: also cast floating-point model inputs such as ``pixel_values``; loss weights
                keep their precision.
            non_blocking: copy without waiting; needs `pin_memory` to be of use.

        Raises:
            BatchError: a dtype that is not a floating-point one.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not getattr(dtype, "is_floating_point", False):
            raise BatchError(
                f"{dtype=} is not a floating-point dtype; token ids keep theirs, and "
                "non_blocking=True goes by its name"
            )

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

    def copy(self) -> PackedBatch:
        """A batch of the same tensors."""
        return PackedBatch(self)

    # Else it would go through __reduce__, bytes and back; the loader copies every batch.
    __copy__ = copy

    def __repr__(self) -> str:
        return f"PackedBatch({', '.join(f'{n}: {_describe(v)}' for n, v in self.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, pack_tensors(self)


def _unpickle(layout: Any, blob: bytes, rest: dict[str, Any]) -> PackedBatch:
    return PackedBatch(unpack_tensors(layout, blob, rest))


def _describe(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value) if isinstance(value, PackedRow) else reprlib.repr(value)
    where = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{where}"


def _collate_rows(batches: Sequence[PackedBatch], **_: Any) -> PackedBatch:
    """What torch's default collate makes of packed rows: one stays what it is."""
    if len(batches) > 1:
        raise BatchError(
            f"{len(batches)} rows cannot be joined, each has a mask of its own; use "
            "DataLoader(dataset, batch_size=None)"
        )
    return batches[0]


default_collate_fn_map[PackedBatch] = _collate_rows


def collate(
    trees: Iterable[MessageTree],
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
        windows: of layers with sliding attention (``treepack.hf.windows(model)``). Left out, they
            are planned at their first use, which a compiled model cannot do.

    Returns:
        A `PackedBatch` on the CPU.

    Raises:
        BatchError: what is no list of trees, or of windows; media that cannot be concatenated, or
            too little room in ``total``.
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
    targets = row.targets(mask)
    extras = family.collate(row.trees, mask.total) if family else concatenate_media(row.trees)
    arrays = {
        "input_ids": row.input_ids(mask.total)[None],
        "position_ids": family.position_rows(positions) if family else _plain_rows(positions),
        **extras,
        "logits_to_keep": targets.position,
        "labels": targets.token[None],
        "shift_labels": targets.token[None],
        "loss_weights": targets.weight[None],
    }
    batch = PackedBatch((name, _tensor(value)) for name, value in arrays.items())
    batch["use_cache"] = False
    batch["treepack"] = PackedRow(
        mask,
        TreePlan.from_mask(mask),
        row.keys,
        row.stats(mask, len(targets.token), budgets),
        state,
        _plan_windows(mask, windows),
        targets.counts,
    )
    return batch


def _plan_windows(mask: TreeMask, windows: Iterable[int]) -> dict[int, TreePlan]:
    if not isinstance(windows, Iterable):
        raise BatchError(
            f"windows is {windows!r}, not a list of windows in tokens; pass "
            "treepack.hf.windows(model), or [w]"
        )
    return {window: TreePlan.from_mask(mask, window) for window in windows}


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


def _plain_rows(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return positions if len(positions) == 1 else positions[:, None]


def _tensor(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    # A read-only array, or a view of somebody's, must not become a tensor that could write to it.
    is_ours = value.flags.writeable and not isinstance(value.base, np.ndarray)
    return torch.from_numpy(value if is_ours else value.copy())
