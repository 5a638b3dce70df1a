"""Settings of a dataset: what they may be, and their defaults."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from treepack.errors import BudgetError, DatasetError

if TYPE_CHECKING:
    from treepack.families import Family
    from treepack.sources.costs import CostTable

LONGEST = 240
"""Characters of a mixture that a fingerprint spells out."""


def shorten(text: str) -> str:
    """A text that is told from all others, of bounded length."""
    # A state has room for so much.
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}... {digest[:16]}"


def default_shard() -> tuple[int, int]:
    """Rank and world size of this process."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    # Before init_process_group, which will take them from here.
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def check_shard(shard: Any) -> tuple[int, int]:
    """Rank and world size that a pair or a device mesh says."""
    pair = _mesh_place(shard) if hasattr(shard, "get_coordinate") else shard
    try:
        rank, world = map(operator.index, pair)
    except (TypeError, ValueError):
        raise DatasetError(f"shard must be (rank, world) or a mesh, got {shard!r}") from None
    if not 0 <= rank < world:
        raise DatasetError(f"shard=(rank, world) must have 0 <= rank < world, got {shard}")
    return rank, world


def _mesh_place(mesh: Any) -> tuple[int, int]:
    """Rank and size of a device mesh, or of several of its dimensions counted as one."""
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise DatasetError("this process is not part of the device mesh given as shard=")
    rank = 0
    for place, size in zip(coordinate, mesh.shape, strict=True):
        rank = rank * size + place
    return rank, mesh.size()


def find_family(
    processor: Any, family: str | None, chat: Any, budgets: Mapping[str, int]
) -> Family | None:
    """The model family of a processor, which must measure what is budgeted."""
    if processor is None:
        if family is not None:
            raise DatasetError(f"family={family!r} needs a processor; pass processor=")
        return None
    from treepack.families import find

    found = find(processor, family, chat=chat)
    unknown = [name for name in budgets if name not in found.costs]
    if unknown:
        raise BudgetError(
            f"budgets {unknown} are not measured by family {found.name!r}, which measures "
            f"{list(found.costs)}; rename them, or pass a source that yields MessageTree"
        )
    return found


def positive(name: str, value: int | None) -> int | None:
    """A positive integer or ``None``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise DatasetError(f"{name} must be a positive integer or None, got {value!r}")
    return int(value)


def check_dict(name: str, value: Any) -> dict[str, Any]:
    """A dict of settings by name."""
    if not isinstance(value, Mapping):
        raise DatasetError(f"{name} must be a dict by name, got {value!r}")
    return dict(value)


def check_windows(windows: Any) -> tuple[int, ...]:
    """Windows of sliding attention, in tokens."""
    is_listed = isinstance(windows, Iterable) and not isinstance(windows, str)
    found = tuple(positive("a window", window) or 0 for window in windows) if is_listed else None
    if found is None or 0 in found:
        raise DatasetError(
            f"windows must be a list of windows in tokens, got {windows!r}; pass "
            "treepack.hf.windows(model)"
        )
    return found


def check_seed(value: int) -> int:
    """A seed of 64 bits."""
    if not isinstance(value, (int, np.integer)) or not 0 <= value < 1 << 64:
        raise DatasetError(f"seed must be an integer in [0, 2**64), got {value!r}")
    return int(value)


def check_table(costs: Any) -> CostTable:
    """A table of costs, not the numbers themselves."""
    if not hasattr(costs, "attach"):
        raise DatasetError(
            f"costs is a {type(costs).__name__}; make a table of it with treepack.costs.from_numpy"
        )
    table: CostTable = costs
    return table


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """One of the words that a setting may be."""
    if value not in known:
        raise DatasetError(f"{name} must be one of {list(known)}, got {value!r}")
    return value
