"""Saved places of a stream.

Public names:

    merge  the states of all ranks as one, which any number of ranks and workers can load
"""

from __future__ import annotations

from treepack.dataset.state import merge

__all__ = ["merge"]


def __dir__() -> list[str]:
    return sorted(__all__)
