"""What folded responses hold, slowly and readably: every beginning that differs is a token."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

Tokens = tuple[int, ...]


def tokens(sequences: Sequence[Tokens], groups: Sequence[Hashable]) -> int:
    """How many tokens all rows together have, if no group is cut and no token repeated.

    Args:
        sequences: each prompt with its response.
        groups: of each, what belongs together.
    """
    beginnings = {
        (group, sequence[: n + 1])
        for group, sequence in zip(groups, sequences, strict=True)
        for n in range(len(sequence))
    }
    return len(beginnings)
