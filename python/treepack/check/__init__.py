"""Checks that need a model: does a packed row give each path what it gets alone?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepack._lazy import lazy_names

if TYPE_CHECKING:
    from treepack.check.exact import ExactReport, check_exact
    from treepack.check.learn import learn

__all__ = ["ExactReport", "check_exact", "learn"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "ExactReport": "treepack.check.exact[hf]",
            "check_exact": "treepack.check.exact[hf]",
            "learn": "treepack.check.learn[hf]",
        },
    )
