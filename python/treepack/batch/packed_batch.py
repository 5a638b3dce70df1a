"""One packed row as the model takes it: its tensors, and the mask beside them."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from treepack.batch._transfer import pack_tensors, unpack_tensors
from treepack.batch.packed_row import PackedRow
from treepack.batch.stand_in import StandIn
from treepack.errors import BatchError


class PackedBatch(dict[str, Any]):
    """One packed row as a dict: what ``model(**batch)`` takes, and nothing else.

    `collate` and `PackedDataset` make it. Of a row of ``total`` tokens and ``L`` targets it holds:

    - ``input_ids``: int64 ``[1, total]``, 0 on padding.
    - ``position_ids``: int64, by default ``[1, total]``; the family decides the shape.
    - ``logits_to_keep``: int64 ``[L]``, row positions whose hidden state predicts a target; several
      branches that start at one token repeat its position.
    - ``targets``: int64 ``[1, L]``, the tokens that they predict.
    - ``loss_weights``: float32 ``[1, L]``.
    - ``treepack``: the `PackedRow`, which the attention function reads.
    - ``labels`` and ``attention_mask``: a `StandIn`, which a prepared model does not read, and at
      which any other model raises.
    - ``use_cache``: False.
    - what the family adds, such as ``pixel_values``.

    It is not modified by its methods, and crosses to another process in one buffer.

    Source:
        The names and ``[1, total]`` are those of transformers' padding-free batches
        (``DataCollatorWithFlattening``).

    Example:
        >>> import treepack as tp
        >>> batch = tp.collate([tp.MessageTree([1, 2, 3], labels=[-100, 2, 3])])
        >>> batch["input_ids"].tolist(), batch["loss_weights"].tolist()
        ([[1, 2, 3]], [[1.0, 1.0]])
    """

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["treepack"], /) -> PackedRow: ...

        @overload
        def __getitem__(
            self,
            key: Literal["input_ids", "position_ids", "logits_to_keep", "targets", "loss_weights"],
            /,
        ) -> torch.Tensor: ...

        @overload
        def __getitem__(self, key: Literal["labels", "attention_mask"], /) -> StandIn: ...

        @overload
        def __getitem__(self, key: Literal["use_cache"], /) -> bool: ...

        @overload
        def __getitem__(self, key: str, /) -> Any: ...

        def __getitem__(self, key: str, /) -> Any: ...

    def to(
        self,
        device: torch.device | str | int | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> PackedBatch:
        """A batch with every tensor and the mask on ``device``; the original is unchanged.

        Args:
            device: the device to copy to; by default each tensor stays where it is. A dtype in
                this place is taken as ``dtype``, as by ``Tensor.to``.
            dtype: floating-point dtype to cast model inputs such as ``pixel_values`` to. Token ids
                stay int64 and loss weights float32.
            non_blocking: copy without waiting; it takes effect for a batch in pinned memory.

        Returns:
            A new batch; what does not have to move is shared with this one.

        Raises:
            BatchError: a dtype that is not a floating-point one.

        Example:
            >>> import torch, treepack as tp
            >>> batch = tp.collate([tp.MessageTree([1, 2], media={"pixels": torch.ones(1, 3)})])
            >>> batch.to("cpu", torch.bfloat16)["pixels"].dtype, batch["pixels"].dtype
            (torch.bfloat16, torch.float32)
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not getattr(dtype, "is_floating_point", False):
            raise BatchError(
                f"{dtype=} is not a floating-point dtype; token ids keep theirs, and "
                "non_blocking=True has to be passed by name"
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
        """A batch in page-locked memory, for asynchronous copies to a GPU.

        A ``DataLoader`` with ``pin_memory=True`` calls it.

        Returns:
            A new batch; this one is unchanged.

        Raises:
            RuntimeError: from torch, where there is no accelerator to pin memory for.
        """
        pinned = (
            (name, value.pin_memory() if hasattr(value, "pin_memory") else value)
            for name, value in self.items()
        )
        return PackedBatch(pinned)

    def copy(self) -> PackedBatch:
        """A new batch that shares the tensors of this one."""
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
            f"{len(batches)} rows cannot be joined, since each has its own mask; use "
            "DataLoader(dataset, batch_size=None)"
        )
    return batches[0]


default_collate_fn_map[PackedBatch] = _collate_rows
