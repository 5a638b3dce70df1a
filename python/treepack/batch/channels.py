"""Numbers that trees carry for their targets, laid out next to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from treepack.batch.layout import RowLayout
from treepack.errors import BatchError
from treepack.tree import IGNORE, Channel, example_name

Float32 = npt.NDArray[np.float32]


def channels_of(row: RowLayout, counts: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
    """The channels of a row, each float32 ``[L]``, in the order of its targets.

    Args:
        row: the trees.
        counts: int64 ``[nodes]``, targets of each node.

    Raises:
        BatchError: a node with targets lacks a channel that another one has. A number that somebody
            forgot would be a silent 0.
    """
    trained = np.flatnonzero(counts).tolist()
    names = dict.fromkeys(name for i in trained for name in row.nodes[i].channels or ())
    return {
        name: torch.from_numpy(np.concatenate([_values(row, i, name) for i in trained]))
        for name in names
    }


def _channel(row: RowLayout, place: int, name: str) -> Channel:
    node = row.nodes[place]
    if name not in (node.channels or {}):
        root = place
        while row.parents[root] >= 0:
            root = row.parents[root]
        raise BatchError(
            f"{example_name(row.nodes[root].key)}: node {place - root} has targets and no channel "
            f"{name!r}, which others of the row have; give it one, 0.0 where it counts for nothing"
        )
    return node.channels[name]  # type: ignore[index]


def _values(row: RowLayout, place: int, name: str) -> Float32:
    node, channel, is_root = row.nodes[place], _channel(row, place, name), row.parents[place] < 0
    n, ends = len(node.tokens), node.end_target is not None
    if isinstance(channel, float):
        channel = np.full(n + ends, channel, np.float32)
    elif len(channel) < n + ends:
        channel = np.append(channel, channel[-1:])
    is_target = np.ones(n + ends, bool)
    is_target[:n] = False if node.labels is None else node.labels != IGNORE
    # Nothing predicts the first token of a root.
    is_target[:is_root] = False
    found: Float32 = channel[is_target]
    return found
