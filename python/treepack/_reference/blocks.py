"""The blocks of a mask, read off its matrix: the reference of the core's ``block_lists``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Table = tuple[Int32, Int32]


def block_lists(
    dense: npt.NDArray[np.bool_], block_q: int = 128, block_k: int = 128
) -> tuple[Table, Table, Table, Table]:
    """Partial and full blocks of keys for each block of queries, then the other way round.

    Args:
        dense: bool ``[total, total]``, queries down, keys across.
        block_q: queries of a block.
        block_k: keys of a block.

    Returns:
        Four tables ``(counts, indices)``: int32 ``[n]`` and int32 ``[n, m]``.

    Example:
        >>> import numpy as np
        >>> (counts, _), (full, _), _, _ = block_lists(np.tri(4, dtype=bool), 2, 2)
        >>> counts.tolist(), full.tolist()
        ([1, 1], [0, 1])
    """
    total = len(dense)
    blocks = [
        [dense[q : q + block_q, k : k + block_k] for k in range(0, total, block_k)]
        for q in range(0, total, block_q)
    ]
    full = np.array([[block.all() for block in line] for line in blocks])
    partial = np.array([[block.any() for block in line] for line in blocks]) & ~full
    return _table(partial), _table(full), _table(partial.T), _table(full.T)


def _table(listed: npt.NDArray[np.bool_]) -> Table:
    indices = np.zeros(listed.shape, np.int32)
    for line, columns in zip(indices, listed, strict=True):
        found = np.flatnonzero(columns)
        line[: len(found)] = found
    return listed.sum(1).astype(np.int32), indices
