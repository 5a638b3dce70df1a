"""Everything that treepack raises: each class is a ``ValueError``.

Public names:

    TreepackError        base of all others
    AttentionError       a call of attention, or a model, that the mask does not support
    BatchError           trees that cannot share a row; a batch that lost a part
    BudgetError          a budget, or another setting of a packer, out of range
    CostError            a cost that is missing, unknown or negative
    OversizeError        an example larger than a budget
    DataError            a record, an image or a video that cannot be read
    DatasetError         a source, or a setting of a dataset, that cannot work
    FamilyError          a processor that no model family supports
    MissingPackageError  a package that is not installed; an ``ImportError`` too
    NotPreparedError     a packed batch met a model that is not prepared
    StateError           a saved state of something else
    TreeError            nodes or image runs that are no tree
"""

from __future__ import annotations

from treepack._core import (
    BudgetError,
    CostError,
    OversizeError,
    StateError,
    TreeError,
    TreepackError,
)


class AttentionError(TreepackError):
    """An attention call that the mask does not support: rejected, never silently replaced."""


class BatchError(TreepackError):
    """Trees that cannot share one row, or a batch that lost a part on its way to the model."""


class MissingPackageError(TreepackError, ImportError):
    """A package that is not installed; the message names the extra of treepack that brings it."""


class NotPreparedError(BatchError, AttributeError):
    """A packed batch met a model, or other code, that does not know of packing.

    It is an ``AttributeError`` too, so that ``hasattr`` says no instead of failing.
    """


class DataError(TreepackError):
    """A record, an image or a video of the data that cannot be read or makes no sense."""


class DatasetError(TreepackError):
    """A source, or a setting of a dataset, that cannot work."""


class FamilyError(TreepackError):
    """A processor that no model family supports, or a tree that its family cannot say."""


__all__ = [
    "AttentionError",
    "BatchError",
    "BudgetError",
    "CostError",
    "DataError",
    "DatasetError",
    "FamilyError",
    "MissingPackageError",
    "NotPreparedError",
    "OversizeError",
    "StateError",
    "TreeError",
    "TreepackError",
]


def __dir__() -> list[str]:
    return sorted(__all__)
