"""Several sources in one stream, in proportion to their weights."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from numbers import Rational, Real
from typing import Any

from treepack._core import permute
from treepack.errors import DatasetError
from treepack.sources.protocol import OrderedSource, draw, is_map_style, load_example

BLOCK = 4096
"""Largest number of draws after which every source has had exactly its share."""


class Mixture(OrderedSource):
    """A map-style source that draws from several others in proportion to their weights.

    The stream is cut into blocks of at most 4,096 draws. In each block every source has exactly its
    share of the draws, and the order of the sources is shuffled. The ``r``-th draw of a source is
    the ``r``-th example of that source's own seeded order, epoch after epoch. So any position can
    be computed without the ones before it, and a small source is seen evenly.

    Examples are numbered through: those of the first source, then those of the second, and so on.
    ``len(mixture)`` is the sum of the lengths. An epoch of a `PackedDataset` is as many draws, so a
    source with a large weight is read more than once in it.

    Args:
        sources: map-style sources by name. Examples keep the key that they have; one without a key
            is called by its number in the mixture.
        weights: for each name a positive number, the share of examples (not of tokens). Integers
            and simple fractions keep their exact ratio; anything else is rounded to 1/4096 of the
            whole.

    Raises:
        DatasetError: a source that is empty or not read by index, sources of which some have
            ``measure`` and some have not, or weights that do not fit the sources.

    Example:
        >>> import treepack as tp
        >>> short, long = [tp.MessageTree([1])] * 3, [tp.MessageTree([1] * 9)] * 5
        >>> mixture = tp.Mixture({"short": short, "long": long}, {"short": 3, "long": 1})
        >>> [mixture.name(mixture.draw(position, seed=0)) for position in range(8)]
        ['short', 'short', 'long', 'short', 'short', 'long', 'short', 'short']
    """

    def __init__(self, sources: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        if not isinstance(sources, Mapping):
            raise DatasetError(
                f"sources is a {type(sources).__name__}; name each source, and give its weight "
                'under the same name: Mixture({"a": source, ...}, {"a": 1, ...})'
            )
        self.sources: dict[str, Any] = dict(sources)
        self.shares: list[int] = _shares(self.sources, weights)
        # The number in the mixture of the first example of each source, and the end.
        self.starts: list[int] = [0, *accumulate(len(source) for source in self.sources.values())]
        self._names = list(self.sources)
        self._parts = list(self.sources.values())
        # The same for the draws of a block, before they are shuffled.
        self._first_slots = [0, *accumulate(self.shares)]
        measured = [hasattr(source, "measure") for source in self._parts]
        if all(measured):
            self.measure: Callable[[int], Mapping[str, int]] = self._measure
        elif any(measured):
            have = [name for name in self._names if hasattr(self.sources[name], "measure")]
            raise DatasetError(
                f"of the sources of a mixture, {have} have measure() and the others do not; give "
                "it to all or to none"
            )

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Any:
        part, place = self._locate(index)
        return self._parts[part][place]

    def load(self, index: int) -> Any:
        """The example with a number, by its source's ``load`` if that can ``measure``.

        Args:
            index: number in the mixture, ``0 <= index < len(mixture)``.

        Raises:
            IndexError: there is no such number.

        Example:
            >>> mixture = Mixture({"letters": "abc", "digits": "01"}, {"letters": 1, "digits": 1})
            >>> mixture.load(4)
            '1'
        """
        part, place = self._locate(index)
        return load_example(self._parts[part], place)

    def _measure(self, index: int) -> Mapping[str, int]:
        part, place = self._locate(index)
        cost: Mapping[str, int] = self._parts[part].measure(place)
        return cost

    def __repr__(self) -> str:
        parts = zip(self._names, self.shares, self._parts, strict=True)
        return "Mixture(" + ", ".join(f"{n}: {k} of {len(p)}" for n, k, p in parts) + ")"

    def name(self, index: int) -> str:
        """The name of the source that an example comes from.

        Args:
            index: number in the mixture, ``0 <= index < len(mixture)``.

        Raises:
            IndexError: there is no such number.

        Example:
            >>> mixture = Mixture({"letters": "abc", "digits": "01"}, {"letters": 1, "digits": 1})
            >>> mixture.name(2), mixture.name(3)
            ('letters', 'digits')
        """
        return self._names[self._locate(index)[0]]

    def draw(self, position: int, seed: int = 0, shuffle: bool = True) -> int:
        """The number in the mixture of the example at a position of the stream.

        Args:
            position: from 0 on, without end.
            seed: of the order of the sources and of each source's examples, in ``[0, 2**64)``.
            shuffle: whether each source's examples are shuffled; the order of the sources always
                is.

        Returns:
            A number in the mixture. It depends on the arguments, the lengths and the weights alone.

        Example:
            >>> mixture = Mixture({"letters": "abc", "digits": "01"}, {"letters": 1, "digits": 1})
            >>> [mixture[mixture.draw(position, shuffle=False)] for position in range(6)]
            ['0', 'a', 'b', '1', 'c', '0']
        """
        block, place = divmod(position, self._first_slots[-1])
        part, rank = _block(tuple(self._first_slots), seed, block)[place]
        # Each source has a key of its own, so that two of one length are not in step.
        key, turn = (seed + part + 1) % (1 << 64), block * self.shares[part] + rank
        return self.starts[part] + draw(self._parts[part], turn, key, shuffle)

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of a mixture of {len(self)}")
        part = bisect_right(self.starts, index) - 1
        return part, index - self.starts[part]


@lru_cache(maxsize=8)
def _block(first_slots: tuple[int, ...], seed: int, block: int) -> list[tuple[int, int]]:
    """For each place of a block: the source, and how many of its draws come before in the block."""
    size = first_slots[-1]
    counts = [0] * (len(first_slots) - 1)
    drawn = []
    for place in range(size):
        part = bisect_right(first_slots, permute(place, size, seed, block)) - 1
        drawn.append((part, counts[part]))
        counts[part] += 1
    return drawn


def _shares(sources: Mapping[str, Any], weights: Mapping[str, float]) -> list[int]:
    """How many draws of a block each source has."""
    if not isinstance(weights, Mapping):
        raise DatasetError(
            f'weights is a {type(weights).__name__}; name each after its source: {{"a": 1, ...}}'
        )
    if not sources or set(sources) != set(weights):
        raise DatasetError(
            f"a mixture needs one weight for each source, got weights for {list(weights)} and "
            f"sources {list(sources)}"
        )
    for name, source in sources.items():
        if not is_map_style(source) or not len(source):
            raise DatasetError(
                f"source {name!r} of a mixture must have __len__ and __getitem__ and not be empty"
            )
    given = [_exact(name, weights[name]) for name in sources]
    parts = [weight / sum(given) for weight in given]
    # 0.3 is not 3/10 in binary; the nearest simple fraction is what was meant.
    exact = [part.limit_denominator(BLOCK) for part in parts]
    size = math.lcm(*(share.denominator for share in exact))
    if sum(exact) == 1 and size <= BLOCK and all(exact):
        return [int(share * size) for share in exact]
    return _rounded(list(sources), parts)


def _exact(name: str, weight: Any) -> Fraction:
    if not (isinstance(weight, Real) and 0 < float(weight) < math.inf):
        raise DatasetError(f"weight of {name!r} must be a number above 0, got {weight!r}")
    return Fraction(weight if isinstance(weight, Rational) else float(weight))


def _rounded(names: Sequence[str], shares: Sequence[Fraction]) -> list[int]:
    """Largest remainders: integers that sum to the block and are within one of each share."""
    slots = [int(share * BLOCK) for share in shares]
    by_remainder = sorted(range(len(slots)), key=lambda i: (slots[i] - shares[i] * BLOCK, i))
    for i in by_remainder[: BLOCK - sum(slots)]:
        slots[i] += 1
    for name, slot in zip(names, slots, strict=True):
        if not slot:
            raise DatasetError(
                f"weight of {name!r} is less than 1/{BLOCK} of the whole; raise it or leave the "
                "source out"
            )
    return slots
