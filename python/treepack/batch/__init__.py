"""What a packed row is: trees laid out depth first, collated into the tensors a model takes."""

from __future__ import annotations

from treepack.batch.collate import CollateFamily, collate, concatenate_media
from treepack.batch.packed_batch import PackedBatch
from treepack.batch.packed_row import PackedRow
from treepack.batch.stand_in import StandIn

__all__ = ["CollateFamily", "PackedBatch", "PackedRow", "StandIn", "collate", "concatenate_media"]
