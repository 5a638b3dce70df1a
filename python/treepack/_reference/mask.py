"""The mask of a row, built the obvious way: the reference of `treepack.TreeMask`.

Nodes are found on their paths, visible pairs by asking for each pair of tokens whether it is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

IGNORE = -100

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


class ReferenceMask:
    """The reference implementation of `treepack.TreeMask`, for rows that are valid.

    Args:
        lengths: int ``[N]``, own tokens of each node, depth first.
        parents: int ``[N]``, index of each node's parent, -1 for a root.
        image_runs: int ``[R, 3]``, each ``(start, end, image)``, or ``None``.
        bidirectional: ``"none"``, ``"image_tokens"`` or ``"within_image"``.
        total: length of the row, or ``None`` for no padding.

    The attributes have the names, shapes and dtypes of `treepack.TreeMask`.

    Example:
        >>> mask = ReferenceMask([3, 2, 2], [-1, 0, 0], total=8)
        >>> mask.to_dense().astype(int)
        array([[1, 0, 0, 0, 0, 0, 0, 0],
               [1, 1, 0, 0, 0, 0, 0, 0],
               [1, 1, 1, 0, 0, 0, 0, 0],
               [1, 1, 1, 1, 0, 0, 0, 0],
               [1, 1, 1, 1, 1, 0, 0, 0],
               [1, 1, 1, 0, 0, 1, 0, 0],
               [1, 1, 1, 0, 0, 1, 1, 0],
               [0, 0, 0, 0, 0, 0, 0, 0]])
        >>> mask.area, mask.key_end.tolist(), mask.positions().tolist()
        (24, [7, 7, 7, 5, 5, 7, 7, 0], [[0, 1, 2, 3, 4, 3, 4, 0]])
    """

    def __init__(
        self,
        lengths: npt.ArrayLike,
        parents: npt.ArrayLike,
        image_runs: npt.ArrayLike | None = None,
        bidirectional: str = "none",
        total: int | None = None,
    ) -> None:
        self._lengths = np.asarray(lengths).tolist()
        self._parents = np.asarray(parents).tolist()
        self._runs = [] if image_runs is None else np.asarray(image_runs).tolist()
        self._paths = [self._path(i) for i in range(len(self._lengths))]
        self.bidirectional = bidirectional
        self.n_nodes = len(self._lengths)
        self.n_examples = self._parents.count(-1)
        self.used = sum(self._lengths)
        self.total = self.used if total is None else total
        self._add_nodes()
        self._add_groups()
        self._add_vectors()

    def _path(self, node: int) -> list[int]:
        """The node and its ancestors, from the root down."""
        path = [node]
        while self._parents[path[0]] >= 0:
            path.insert(0, self._parents[path[0]])
        return path

    def _path_tokens(self, node: int) -> list[int]:
        """The row positions from the first token of the root to the last one of the node."""
        return [t for i in self._paths[node] for t in range(self.node_start[i], self.node_end[i])]

    def _add_nodes(self) -> None:
        ends = np.cumsum(self._lengths)
        below = [[j for j, path in enumerate(self._paths) if i in path] for i in self._nodes]
        roots = [i for i in self._nodes if self._parents[i] < 0]
        self.node_start = _int32(ends - self._lengths)
        self.node_end = _int32(ends)
        self.subtree_end = _int32([max(ends[j] for j in nodes) for nodes in below])
        self.node_parent = _int32(self._parents)
        self.node_depth = _int32([len(path) - 1 for path in self._paths])
        self.node_example = _int32([roots.index(path[0]) for path in self._paths])
        self._node_of = np.repeat(self._nodes, self._lengths)

    @property
    def _nodes(self) -> range:
        return range(len(self._lengths))

    def _add_groups(self) -> None:
        """Number the group of each token, -1 for none, and find the runs of each group."""
        keys: list[Any] = [None] * self.used
        for start, end, image in self._runs:
            node = int(self._node_of[start])
            key = {"none": None, "image_tokens": node, "within_image": image}[self.bidirectional]
            keys[start:end] = [key] * (end - start)
        order = [key for key in dict.fromkeys(keys) if key is not None]
        self._group_of = np.array([order.index(k) if k is not None else -1 for k in keys], int)
        starts, ends, ptr = [], [], [0]
        for group in range(len(order)):
            inside = np.diff(np.concatenate([[0], self._group_of == group, [0]]).astype(int))
            starts += np.flatnonzero(inside == 1).tolist()
            ends += np.flatnonzero(inside == -1).tolist()
            ptr.append(len(starts))
        self.run_start, self.run_end, self.group_ptr = _int32(starts), _int32(ends), _int32(ptr)

    def _add_vectors(self) -> None:
        tokens = np.arange(self.used)
        lo, hi = tokens.copy(), tokens.copy()
        for group in range(len(self.group_ptr) - 1):
            members = np.flatnonzero(self._group_of == group)
            lo[members], hi[members] = members[0], members[-1]
        padding = np.arange(self.used, self.total)
        self.key_lo = _int32(np.concatenate([lo, padding]))
        self.key_end = _int32(np.concatenate([self.subtree_end[self._node_of], 0 * padding]))
        self.query_hi = _int32(np.concatenate([hi, 0 * padding - 1]))

    def to_dense(self) -> npt.NDArray[np.bool_]:
        """The mask bool ``[total, total]``, straight from its definition."""
        on_path = np.array([[j in path for j in self._nodes] for path in self._paths])
        related = on_path[self._node_of][:, self._node_of]
        q, k = np.ogrid[: self.used, : self.used]
        of_one_group = (self._group_of[q] >= 0) & (self._group_of[q] == self._group_of[k])
        dense = np.zeros((self.total, self.total), bool)
        dense[: self.used, : self.used] = related & ((k <= q) | of_one_group)
        return dense

    @property
    def area(self) -> int:
        """Number of visible pairs."""
        return int(self.to_dense().sum())

    def visible(self, q: int, k: int) -> bool:
        """Whether query ``q`` sees key ``k``, by the three vectors."""
        return bool(self.key_lo[k] <= q < self.key_end[k] and k <= self.query_hi[q])

    def positions(self, root_positions: npt.ArrayLike | None = None) -> Int64:
        """Position ids int64 ``[A, total]``: each token's predecessor plus one."""
        given = np.arange(self.total)[None] if root_positions is None else root_positions
        positions = np.array(given, np.int64)
        positions[:, self.used :] = 0
        for node in self._nodes:
            start, end = self.node_start[node], self.node_end[node]
            if self._parents[node] < 0:
                if root_positions is None:
                    positions[:, start:end] = np.arange(end - start)
                continue
            path = self._path_tokens(node)
            for place in range(len(path) - (end - start), len(path)):
                positions[:, path[place]] = positions[:, path[place - 1]] + 1
        return positions

    def targets(
        self,
        nodes: Sequence[int],
        labels: npt.ArrayLike,
        weights: npt.ArrayLike,
        end_targets: npt.ArrayLike,
        end_weights: npt.ArrayLike,
    ) -> tuple[Int64, Int64, Float32]:
        """Row positions, target tokens and weights, one trained token after the other."""
        given = zip(np.asarray(labels).tolist(), np.asarray(weights).tolist(), strict=True)
        ends = zip(np.asarray(end_targets).tolist(), np.asarray(end_weights).tolist(), strict=True)
        found: list[tuple[int, int, float]] = []
        for node, end in zip(nodes, ends, strict=True):
            path = self._path_tokens(node)
            for token in range(self.node_start[node], self.node_end[node]):
                own = next(given)
                if token != path[0]:
                    found.append((path[path.index(token) - 1], *own))
            found.append((path[-1], *end))
        kept = [target for target in found if target[1] != IGNORE]
        position, tokens, weights = zip(*kept, strict=True) if kept else ((), (), ())
        return np.array(position, np.int64), np.array(tokens, np.int64), _float32(weights)


def _int32(values: npt.ArrayLike) -> Int32:
    return np.asarray(values).astype(np.int32)


def _float32(values: npt.ArrayLike) -> Float32:
    return np.asarray(values, np.float32)
