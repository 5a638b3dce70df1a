"""States of a stream: the public names of ``dataset.state``."""

from __future__ import annotations

from treepack.dataset.state import merge

__all__ = ["merge"]
