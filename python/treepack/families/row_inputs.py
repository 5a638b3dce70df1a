"""What a family makes of the trees of one row: their media joined, and those that fill it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import FamilyError
from treepack.sources.media import cut
from treepack.tree import MessageTree, example_name

Int64 = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


class Filler(NamedTuple):
    """A medium of zeros, as small as the model takes it.

    It stands in the padding of a row, which neither sees nor is seen: loss and gradients stay as
    they are, and the tower's gradients are 0 instead of missing.

    Attributes:
        tokens: int64 ``[n]``, what stands in ``input_ids`` for its features.
        cost: what it takes of each budget of the family.
        arrays: model inputs, which come after those of all media of the row.
    """

    tokens: Int64
    cost: dict[str, int]
    arrays: dict[str, Array]


class RowInputs:
    """The part of a family that sees rows.

    The vision tower can run on every row, also on those without media: ``fill`` names the kinds of
    media for which it does. A model runs its tower once for each kind (Qwen3-VL for images and for
    videos), and ranks that train together must run it equally often (FSDP), or at all (DDP). So a
    row has exactly the kinds that ``fill`` names: the smallest medium stands in for a kind that the
    row lacks, and a row with a kind that is not named is rejected.

    +--------------------------------------------------------------------------------+
    |  fill_cost(fill): constant, what the packer keeps free of each budget          |
    +--------------------------------------------------------------------------------+
        the trees of one row
    +--------------------------------------------------------------------------------+
    |  collate(trees, total, fill): arrays of the media, then of the smallest media  |
    |  input_ids[used : used + n] = fill_tokens(trees, fill)                         |
    +--------------------------------------------------------------------------------+

    Attributes:
        name: what ``family=`` calls it.
        media_names: for each kind of media for which the model runs its vision tower, the arrays
            that belong together.
    """

    name: ClassVar[str]
    media_names: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def smallest_medium(self, kind: str) -> Filler:
        """The smallest medium of a kind that the model takes, all zeros.

        Raises:
            FamilyError: the family declares none.
        """
        raise FamilyError(
            f"family {self.name!r} declares no smallest {kind}; without one its vision tower "
            "cannot run on rows without media, so leave fill out"
        )

    def join(self, parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """One set of model inputs from those of several media, in order."""
        names = dict.fromkeys(name for part in parts for name in part)
        return {n: np.concatenate([part[n] for part in parts if n in part]) for n in names}

    def position_ids(self, positions: Int64) -> Int64:
        """Position ids as the model takes them, from int64 ``[A, total]``."""
        return positions

    def collate(
        self, trees: Sequence[MessageTree], total: int, fill: bool | Collection[str] = False
    ) -> dict[str, Array]:
        """The inputs of a row of ``total`` tokens beside its tokens and positions.

        Args:
            trees: the examples of the row, in order.
            total: tokens of the row with padding.
            fill: the kinds of media for which the vision tower runs on every row, ``True`` for all
                of the family. Of a kind that the row lacks, the smallest medium is added; its
                tokens are `fill_tokens`.

        Raises:
            FamilyError: media that are not the family's, or of a kind that ``fill`` leaves out; too
                little padding.
        """
        for tree in trees:
            self._check_media(tree)
        parts = [tree.media for tree in trees if tree.media]
        fillers = self._fillers(trees, fill)
        used = sum(tree.n_tokens for tree in trees)
        needed = sum(len(filler.tokens) for filler in fillers)
        if used + needed > total:
            raise FamilyError(
                f"the row has {used} tokens and room for {total}, and the vision tower needs "
                f"{needed} of padding to run on it; pack to budgets that are smaller by fill_cost"
            )
        return self.join([*parts, *(filler.arrays for filler in fillers)])

    def fill_tokens(self, trees: Sequence[MessageTree], fill: bool | Collection[str]) -> Int64:
        """What stands in ``input_ids`` from the first padding on, int64 ``[n]``, often empty.

        Args:
            trees: the examples of the row.
            fill: as in `collate`.
        """
        fillers = self._fillers(trees, fill)
        return np.concatenate([np.empty(0, np.int64), *(filler.tokens for filler in fillers)])

    def fill_cost(self, fill: bool | Collection[str]) -> dict[str, int]:
        """What must stay free of each budget, so that any row has room for what ``fill`` adds."""
        kinds = filled_kinds(fill, self.media_names)
        costs = [self.smallest_medium(kind).cost for kind in kinds]
        names = dict.fromkeys(name for cost in costs for name in cost)
        return {name: sum(cost[name] for cost in costs) for name in names}

    def _fillers(self, trees: Sequence[MessageTree], fill: bool | Collection[str]) -> list[Filler]:
        kinds = filled_kinds(fill, self.media_names)
        if not kinds:
            return []
        found = media_kinds(trees, self.media_names)
        left_out = sorted(found.difference(kinds))
        if left_out:
            raise FamilyError(
                f"the row has media of the kind {left_out[0]!r}, and fill names only "
                f"{', '.join(kinds)}; name both, or the vision tower runs more often on this row "
                "than on others"
            )
        return [self.smallest_medium(kind) for kind in kinds if kind not in found]

    def _check_media(self, tree: MessageTree) -> None:
        """Reject media that the model would not take, such as those of another family."""
        given = set(tree.media or ())
        kinds = media_kinds([tree], self.media_names)
        missing = [n for kind in kinds for n in self.media_names[kind] if n not in given]
        if not given or not self.media_names or (kinds and not missing):
            return
        makers = " or ".join(map(repr, _makers(given)))
        whose = f", as family {makers} makes them" if makers else f"; they lack {missing}"
        name, listed = cut(example_name(tree.key)), cut(str(sorted(given)))
        raise FamilyError(
            f"{name} has media {listed}{whose}; family {self.name!r} takes "
            f"{' or '.join(str(list(names)) for names in self.media_names.values())}. Load it with "
            "the family of the model"
        )


def filled_kinds(fill: bool | Collection[str], kinds: Collection[str]) -> tuple[str, ...]:
    """The kinds of media that ``fill`` names, in the family's order.

    Raises:
        FamilyError: one that the family does not have.
    """
    if isinstance(fill, bool):
        return tuple(kinds) if fill else ()
    named = [fill] if isinstance(fill, str) else list(fill)
    unknown = [kind for kind in named if kind not in kinds]
    if unknown:
        raise FamilyError(f"fill names {cut(repr(unknown[0]))}; it takes {', '.join(kinds)}")
    return tuple(kind for kind in kinds if kind in named)


def media_kinds(
    trees: Sequence[MessageTree], media_names: Mapping[str, tuple[str, ...]]
) -> set[str]:
    """Which kinds of media the trees of a row have."""
    given = {name for tree in trees for name in tree.media or ()}
    return {kind for kind, names in media_names.items() if given.intersection(names)}


def _makers(given: set[str]) -> list[str]:
    """The families that make such media; none if they are only pixels, which many make."""

    def matched(kind: type[RowInputs]) -> int:
        made = (names for names in kind.media_names.values() if given.issuperset(names))
        return max(map(len, made), default=0)

    named = [kind for kind in _subclasses(RowInputs) if hasattr(kind, "name")]
    found = {kind.name: matched(kind) for kind in named}
    most = max(found.values(), default=0)
    return sorted(name for name, n in found.items() if n == most > 1)


def _subclasses(kind: type[RowInputs]) -> Iterator[type[RowInputs]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)
