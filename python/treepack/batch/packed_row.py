"""What a packed row carries beside its tensors: mask, plans, keys and whose targets they are."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from treepack._core import TreeMask
from treepack.attention import TreePlan
from treepack.attention.arguments import checked_window
from treepack.batch.layout import PREFIX
from treepack.errors import AttentionError, BatchError
from treepack.options import Bidirectional

if TYPE_CHECKING:
    from treepack.attention.flex import Blocks

Made = TypeVar("Made")


class PackedRow:
    """The mask of a row and what belongs to it: ``batch["treepack"]``.

    It is not a tensor, so what moves or casts the tensors of a batch leaves it alone.

    Attributes:
        mask: the `TreeMask` of the row.
        plan: the mask as attention calls, on the device of the row.
        keys: keys of the examples, in the order of the row.
        stats: numbers of this row by name: how full each budget is (``fill_tokens``), examples,
            branches, targets; `treepack.train.Statistics` sums them up for a logger.
        waits: for each example, how many packs it waited in its pool; empty without one.
        target_counts: int64 ``[nodes]``, targets of each node of the mask.
        roles: what each node of the mask is to a loss, such as ``"chosen"``, or ``None``; ``None``
            for the whole row if no node has a role.
        sliding_mask: that of layers with a sliding window; ``None`` where ``mask`` is that of every
            layer of any model.
        longest_image: tokens of the longest stretch of which each may see all, of an image or,
            where prompts see ahead, of a root.
        bidirectional: which image tokens see later ones, as `collate` names it; ``None`` for a row
            without images, unless its prompts see ahead.
        channels: the numbers that the trees carry for each target, by name, float32 ``[L]`` on the
            device of the row; empty without any.
        response_ids: for each node of the mask what its tree calls the response that ends there, or
            ``None``; ``None`` for the whole row if no node has one.

    Example:
        A preference or RL loss needs the log-probability of each response; here of two branches:

        >>> import torch, treepack as tp
        >>> answers = [
        ...     tp.MessageTree([5, 6], labels=[5, 6], role="chosen"),
        ...     tp.MessageTree([7], labels=[7], role="rejected"),
        ... ]
        >>> batch = tp.collate([tp.MessageTree([1, 2], children=answers)])
        >>> row, logits = batch["treepack"], torch.zeros(1, 3, 8)  # model(**batch).logits
        >>> each = logits[0].log_softmax(-1).gather(1, batch["targets"].T)[:, 0]
        >>> nodes = row.sum_by_node(each)  # the root has no target
        >>> nodes[row.nodes_of("chosen")], nodes[row.nodes_of("rejected")]
        (tensor([-4.1589]), tensor([-2.0794]))
    """

    __slots__ = (
        "__weakref__",
        "_blocks",
        "_state",
        "_windows",
        "bidirectional",
        "channels",
        "keys",
        "longest_image",
        "mask",
        "plan",
        "response_ids",
        "roles",
        "sliding_mask",
        "stats",
        "target_counts",
        "waits",
    )

    def __init__(
        self,
        mask: TreeMask,
        plan: TreePlan,
        keys: Sequence[Any] = (),
        stats: Mapping[str, float] | None = None,
        state: Any = None,
        windows: Mapping[int, TreePlan] | None = None,
        target_counts: npt.NDArray[np.int64] | None = None,
        roles: Sequence[str | None] | None = None,
        sliding_mask: TreeMask | None = None,
        bidirectional: Bidirectional | None = None,
        waits: Sequence[int] = (),
        channels: Mapping[str, torch.Tensor] | None = None,
        response_ids: Sequence[Any] | None = None,
    ) -> None:
        self.mask: TreeMask = mask
        self.plan: TreePlan = plan
        self.keys: list[Any] = list(keys)
        self.stats: dict[str, float] = dict(stats or {})
        self._state = state
        if target_counts is None:
            target_counts = np.zeros(mask.n_nodes, np.int64)
        self.target_counts: npt.NDArray[np.int64] = target_counts
        self.roles: tuple[str | None, ...] | None = None if roles is None else tuple(roles)
        self.sliding_mask: TreeMask | None = sliding_mask
        self.bidirectional: Bidirectional | None = bidirectional
        self.waits: list[int] = list(waits)
        self.channels: dict[str, torch.Tensor] = dict(channels or {})
        self.response_ids: tuple[Any, ...] | None = (
            None if response_ids is None else tuple(response_ids)
        )
        runs = sliding_mask or mask
        self.longest_image: int = int((runs.run_end - runs.run_start).max(initial=0))
        # By window; made when they are asked for, unless `collate` was told of them.
        self._windows = dict(windows or {})
        # By window, ``None`` for the whole row; not moved with the row, but made anew.
        self._blocks: dict[int | None, Blocks] = {}

    @property
    def state(self) -> Any:
        """Where the stream stands after this row (see `PackedDataset`), or ``None``."""
        # Made when it is asked for: few rows are where somebody saves.
        if callable(self._state):
            self._state = self._state()
        return self._state

    @property
    def target_node(self) -> npt.NDArray[np.int64]:
        """For each target the node of the mask that it belongs to, int64 ``[L]``."""
        # Made when it is asked for: few losses do, and it would cross processes with every batch.
        return np.repeat(np.arange(self.mask.n_nodes), self.target_counts)

    @property
    def target_example(self) -> npt.NDArray[np.int64]:
        """For each target the example of the row that it belongs to, int64 ``[L]``."""
        return self.mask.node_example[self.target_node].astype(np.int64)

    def nodes_of(self, role: str) -> npt.NDArray[np.int64]:
        """The nodes of the mask with a role, int64 ``[n]``, in the order of the row.

        A preference record gives a branch of each role, so the n-th ``"chosen"`` node and the n-th
        ``"rejected"`` one answer the same prompt.

        Args:
            role: as `MessageTree` and `Conversations` name it.

        Example:
            >>> import treepack as tp
            >>> answers = [tp.MessageTree([7], role=role) for role in ("chosen", "rejected")]
            >>> row = tp.collate([tp.MessageTree([1], children=answers)] * 2)["treepack"]
            >>> row.roles, row.nodes_of("rejected").tolist()
            ((None, 'chosen', 'rejected', None, 'chosen', 'rejected'), [2, 5])
        """
        found = [node for node, own in enumerate(self.roles or ()) if own == role]
        return np.array(found, np.int64)

    def sum_by_node(self, values: torch.Tensor) -> torch.Tensor:
        """Sum numbers of the targets over each node; of log-probabilities, that of each answer.

        Args:
            values: float ``[L]`` or ``[1, L]``, one for each target, on any device.

        Returns:
            float ``[nodes]``, 0 where a node has no target; gradients go through.

        Raises:
            BatchError: not as many numbers as the row has targets.

        Example:
            >>> import torch, treepack as tp
            >>> answers = [tp.MessageTree([n] * 2, labels=[n] * 2) for n in (7, 8)]
            >>> row = tp.collate([tp.MessageTree([1], children=answers)])["treepack"]
            >>> row.sum_by_node(torch.tensor([1.0, 2.0, 3.0, 4.0]))
            tensor([0., 3., 7.])
        """
        node = torch.from_numpy(self.target_node).to(values.device)
        if values.numel() != len(node):
            raise BatchError(
                f"{values.numel()} numbers for a row of {len(node)} targets; pass one for each, in "
                'the order of batch["targets"]'
            )
        sums = values.new_zeros(self.mask.n_nodes)
        return sums.index_add(0, node, values.reshape(-1))

    def plan_for(self, window: int | None) -> TreePlan:
        """The plan of layers with a sliding window, on the device of the row.

        Made at its first use, once for each window, and moved with the row. ``torch.compile``
        cannot trace that: let `collate` make it, or call this before a compiled model.

        Args:
            window: tokens of its path that a query sees, itself included.

        Raises:
            AttentionError: a window that is no integer of 1 or more; or ``torch.compile`` is
                tracing, and the plan has not been made.
        """
        window = checked_window(window)
        if window is None:
            return self.plan
        if window not in self._windows:
            _reject_to_trace(
                f"no plan for a window of {window} tokens; have it made before: "
                "collate(sliding_windows=treepack.hf.sliding_windows(model)) or "
                "PackedDataset(sliding_windows=...), or call "
                f'batch["treepack"].plan_for({window})'
            )
            self._windows[window] = _untraced(_plan_on, self, window)
        return self._windows[window]

    def blocks_for(self, window: int | None = None) -> Blocks:
        """The mask as FlexAttention takes it, on the device of the row, for ``backend="flex"``.

        Made at its first use, once for each window. ``torch.compile`` cannot trace that: call this
        before a compiled model, after the row has been moved.

        Args:
            window: tokens of its path that a query sees, or ``None`` for all.

        Raises:
            AttentionError: a window that is no integer of 1 or more; or ``torch.compile`` is
                tracing, and the blocks have not been made.
        """
        window = checked_window(window)
        if window not in self._blocks:
            reach = "the whole row" if window is None else f"a window of {window} tokens"
            _reject_to_trace(
                f"no blocks for {reach}; have them made before, once the row is on its device: "
                f'batch["treepack"].blocks_for({window})'
            )
            self._blocks[window] = _untraced(_blocks_on, self, window)
        return self._blocks[window]

    def to(
        self, device: torch.device | str | int | None = None, non_blocking: bool = False
    ) -> PackedRow:
        """The same row with its plans and channels on another device; nothing waits for it."""
        if device is None:
            return self
        return self._with(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedRow:
        """The same row with its plans and channels in page-locked memory."""
        return self._with(lambda part: part.pin_memory())

    def _with(self, move: Callable[[Any], Any]) -> PackedRow:
        windows = {window: move(plan) for window, plan in self._windows.items()}
        channels = {name: move(values) for name, values in self.channels.items()}
        return PackedRow(*self._arguments(move(self.plan), windows, channels))

    def __reduce__(self) -> tuple[Any, ...]:
        # As arrays: a tensor that crosses a process border costs a shared-memory file.
        channels = {name: values.cpu().numpy() for name, values in self.channels.items()}
        return _unpickle, (self._arguments(self.plan, self._windows, {}), channels)

    def _arguments(
        self, plan: TreePlan, windows: Mapping[int, TreePlan], channels: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        told = (self.keys, self.stats, self._state)
        about = (self.target_counts, self.roles, self.sliding_mask, self.bidirectional, self.waits)
        return (self.mask, plan, *told, windows, *about, channels, self.response_ids)

    def __repr__(self) -> str:
        return f"PackedRow(keys={reprlib.repr(self.keys)}, mask={self.mask!r})"


def _unpickle(arguments: tuple[Any, ...], channels: Mapping[str, Any]) -> PackedRow:
    row = PackedRow(*arguments)
    row.channels = {name: torch.from_numpy(values) for name, values in channels.items()}
    return row


def _mask_in(row: PackedRow, window: int | None) -> TreeMask:
    """The mask of layers with a sliding window, or of those without.

    Raises:
        AttentionError: prompts see ahead, and one is longer than the window. All of it sees all of
            it in the model, and here what lies further back would be cut off.
    """
    if window is None:
        return row.mask
    if row.bidirectional == PREFIX and row.longest_image > window:
        raise AttentionError(
            f"a prompt of {row.longest_image} tokens sees all of itself in the model, and here a "
            f"sliding window of {window} would cut it; shorten prompts to {window} tokens"
        )
    return row.sliding_mask or row.mask


def _plan_on(row: PackedRow, window: int) -> TreePlan:
    return TreePlan.from_mask(_mask_in(row, window), window).to(row.plan.device)


def _blocks_on(row: PackedRow, window: int | None) -> Blocks:
    from treepack.attention.flex import make_blocks

    return make_blocks(_mask_in(row, window), row.plan.device, window)


def _reject_to_trace(missing: str) -> None:
    # A whole graph fails with this message; one that may break goes on in eager.
    if torch.compiler.is_compiling():
        raise AttentionError(f"torch.compile cannot trace how a row is planned: {missing}")


def _untraced(make: Callable[[PackedRow, Any], Made], row: PackedRow, window: int | None) -> Made:
    # After a break of the graph torch compiles every function that follows, and these cannot be
    # compiled. Where the compiler is not loaded it is not needed, and loading it takes seconds.
    if "torch._dynamo" in sys.modules:
        make = torch.compiler.disable(make)
    return make(row, window)
