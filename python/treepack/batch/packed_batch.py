"""One packed row as the model takes it: its tensors, and the mask beside them."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from treepack.batch._transfer import pack_tensors, unpack_tensors
from treepack.batch.packed_row import PackedRow
from treepack.errors import BatchError


class PackedBatch(dict[str, Any]):
    """What ``model(**batch)`` takes, and nothing else.

    The keys are those of transformers, in the padding-free layout ``[1, total]``:

    - ``input_ids`` int64 ``[1, total]``; ``position_ids`` int64 as the model wants them;
    - ``logits_to_keep`` int64 ``[L]``: the row positions whose hidden state predicts a target, with
      repeats where several branches start at one token;
    - ``targets`` int64 ``[1, L]``: the tokens that they predict;
    - ``loss_weights`` float32 ``[1, L]``;
    - ``treepack``: the `PackedRow`, which the attention function reads;
    - ``labels`` and ``attention_mask``: a `StandIn`, which a prepared model does not read and any
      other raises at;
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
