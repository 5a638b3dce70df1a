"""What a rank has of a row: which tokens, which targets, and attention over all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.functional import pad

from treepack.attention.ops import cast_by_autocast
from treepack.errors import AttentionError
from treepack.hf.sequence.group import to_heads, to_tokens

if TYPE_CHECKING:
    from treepack.hf.sequence.group import SequenceGroup


class Shard:
    """One rank's part of a row; it stands in for ``batch["treepack"]`` in the layers of a model.

    The row is cut into ``W`` equal stretches, the last of which may end with padding.

    Args:
        row: the whole of it, with a ``mask`` or a mask itself.
        ranks: those that share it.
    """

    def __init__(self, row: Any, ranks: SequenceGroup) -> None:
        self.row = row
        self.ranks = ranks
        self.total: int = int(getattr(row, "mask", row).total)
        self.length: int = -(-self.total // ranks.size)
        self.start: int = self.length * ranks.rank

    def cut(self, x: Tensor, axis: int) -> Tensor:
        """This rank's tokens of a tensor of the whole row; zeros behind its end."""
        here = max(0, min(self.length, self.total - self.start))
        part = x.narrow(axis, min(self.start, self.total), here)
        if here == self.length:
            return part
        after = x.ndim - 1 - axis % x.ndim
        return pad(part, (*[0, 0] * after, 0, self.length - here))

    def check_part(self, query: Tensor, name: str) -> int:
        """Reject what is not this rank's part.

        Args:
            query: ``[1, H, S, D]``.
            name: of the layer, for the message.

        Returns:
            How many tokens the row has.

        Raises:
            AttentionError: other tokens than those of this rank, or heads that its ranks cannot
                share.
        """
        if query.shape[2] != self.length:
            raise AttentionError(
                f"{name} got {query.shape[2]} tokens, and this rank has {self.length} of the "
                f"{self.total} of the row; the row was cut or gathered on its way to the layer"
            )
        if query.shape[1] % self.ranks.size:
            raise AttentionError(
                f"{name} has {query.shape[1]} query heads, which {self.ranks.size} ranks cannot "
                "share equally; choose a size of sequence_parallel that divides them"
            )
        return self.total

    def attend(self, function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend over the whole row with this rank's heads.

        Args:
            function: of queries, keys and values of the whole row, each ``[total, heads, D]``.
            q: ``[S, H, D]``, this rank's tokens, all heads; so ``k`` and ``v``.
            k: keys.
            v: values.

        Returns:
            ``[S, H, D]``.
        """
        # Before they are sent, not after: norms of queries and keys may leave them in float32.
        parts = cast_by_autocast(q, k, v)
        whole = (x[: self.total] for x in to_heads(parts, self.ranks))
        out = function(*whole)
        padding = self.length * self.ranks.size - self.total
        return to_tokens(pad(out, (0, 0, 0, 0, 0, padding)) if padding else out, self.ranks)
