"""Which responses share a message tree, and which trees share a row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from treepack.errors import BatchError
from treepack.rl.trie import Trie, build, sort_order

if TYPE_CHECKING:
    from treepack.families import Family

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Responses that share a message tree.

    Attributes:
        members: their numbers.
        trie: their sequences, laid over each other.
        media: arguments of the root beside its tokens.
    """

    members: list[int]
    trie: Trie
    media: Mapping[str, Any]

    @property
    def tokens(self) -> int:
        """Tokens of the tree."""
        return sum(stretch.end - stretch.start for stretch in self.trie.stretches)


def groups_of(
    sequences: Sequence[Int64],
    firsts: Sequence[int],
    groups: Sequence[Hashable] | None,
    media: Sequence[Mapping[str, Any] | None] | None,
    family: Family | None,
    max_tokens: int | None,
    forks_early: bool,
) -> list[list[Group]]:
    """The groups of each row; arguments are those of `treepack.rl.fold`.

    Args:
        sequences: each prompt with its response.
        firsts: where each response begins.
        groups: what belongs together.
        media: of each prompt.
        family: of the model.
        max_tokens: of a row.
        forks_early: whether the last shared token is repeated.

    Raises:
        BatchError: as of `treepack.rl.fold`.
    """
    _check(sequences, groups, media, family, max_tokens)
    digests = _digests(media) if media else [b""] * len(sequences)
    named: dict[Hashable, list[int]] = {}
    for n, sequence in enumerate(sequences):
        own = (sequence[: firsts[n]].tobytes(), digests[n]) if groups is None else groups[n]
        named.setdefault(own, []).append(n)
    found: list[Group] = []
    for name, members in named.items():
        shown = None if groups is None else name
        extra = _root(members, sequences, firsts, media, digests, family, shown)
        splitter = _Splitter(sequences, firsts, extra, forks_early, max_tokens, shown)
        found += splitter.split(members)
    return _first_fit(found, max_tokens)


def _check(
    sequences: Sequence[Int64],
    groups: Sequence[Hashable] | None,
    media: Sequence[Mapping[str, Any] | None] | None,
    family: Family | None,
    max_tokens: int | None,
) -> None:
    for name, given in (("groups", groups), ("media", media)):
        if given is not None and len(given) != len(sequences):
            raise BatchError(
                f"{len(given)} {name} for {len(sequences)} responses; pass one for each"
            )
    if media is not None and any(media) and family is None:
        raise BatchError(
            "prompts have media, and only the family of the model knows how it takes them; pass "
            "family=treepack.families.find(processor)"
        )
    longest = int(np.argmax([len(sequence) for sequence in sequences]))
    if max_tokens is not None and len(sequences[longest]) > max_tokens:
        raise BatchError(
            f"response {longest} has {len(sequences[longest])} tokens with its prompt, and "
            f"max_tokens is {max_tokens}; raise it, or shorten the response"
        )


def _digests(media: Sequence[Mapping[str, Any] | None]) -> list[bytes]:
    """What the media of each prompt are; responses of one prompt are mostly given the same."""
    known: dict[int, bytes] = {}
    for each in media:
        if id(each) not in known:
            known[id(each)] = _digest(each)
    return [known[id(each)] for each in media]


def _digest(media: Mapping[str, Any] | None) -> bytes:
    """What the media of a prompt are, in 16 bytes; nothing without any."""
    if not media:
        return b""
    found = blake2b(digest_size=16)
    for name in sorted(media):
        array = as_array(media[name])
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.digest()


def as_array(value: Any) -> npt.NDArray[Any]:
    """A tensor or an array as an array on the CPU."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    return np.asarray(value)


def _root(
    members: Sequence[int],
    sequences: Sequence[Int64],
    firsts: Sequence[int],
    media: Sequence[Mapping[str, Any] | None] | None,
    digests: Sequence[bytes],
    family: Family | None,
    name: Hashable,
) -> dict[str, Any]:
    """What the root of a group has beside tokens; empty without media."""
    if media is None or family is None or not any(digests[n] for n in members):
        return {}
    first = members[0]
    prompt = sequences[first][: firsts[first]]
    for n in members:
        if digests[n] != digests[first] or not np.array_equal(sequences[n][: firsts[n]], prompt):
            what = "another prompt" if digests[n] == digests[first] else "other media"
            raise BatchError(
                f"response {n} of group {name!r} has {what} than response {first}; responses "
                "share a prompt if its text and its media are the same"
            )
    arrays = {key: as_array(value) for key, value in (media[first] or {}).items()}
    made = family.prompt_root(prompt, arrays)
    return {
        "image_runs": made.root.runs,
        "media": made.media,
        "root_positions": made.positions,
        "costs": made.costs,
    }


class _Splitter:
    """Makes trees of a group: as few as the tokens of a row allow."""

    def __init__(
        self,
        sequences: Sequence[Int64],
        firsts: Sequence[int],
        media: Mapping[str, Any],
        forks_early: bool,
        max_tokens: int | None,
        name: Hashable,
    ) -> None:
        self.sequences, self.firsts, self.media = sequences, firsts, media
        self.forks_early, self.max_tokens, self.name = forks_early, max_tokens, name

    def split(self, members: list[int]) -> list[Group]:
        group = self._group(members)
        if group is not None and (self.max_tokens is None or group.tokens <= self.max_tokens):
            return [group]
        # Halves in the order of a dictionary, so that what shares most stays together.
        ordered = [members[n] for n in sort_order([self.sequences[n] for n in members])]
        half = len(ordered) // 2
        return [*self.split(ordered[:half]), *self.split(ordered[half:])]

    def _group(self, members: list[int]) -> Group | None:
        """A tree of all of them; ``None`` where they fork at once, at their only shared token."""
        own = [self.sequences[n] for n in members]
        root = self.firsts[members[0]] if self.media else None
        try:
            trie = build(own, [self.firsts[n] for n in members], root, self.forks_early)
        except ValueError:
            heads = sorted({int(sequence[0]) for sequence in own})
            if len(heads) == 1:
                return None
            raise BatchError(
                f"prompts of group {self.name!r} have nothing in common: they begin with the "
                f"tokens {heads[:3]}; give each its own group"
            ) from None
        return Group(members, trie, self.media)


def _first_fit(groups: Sequence[Group], max_tokens: int | None) -> list[list[Group]]:
    """Groups by row, each in the first that has room for it, the largest ones first."""
    if max_tokens is None:
        return [list(groups)]
    rows: list[list[Group]] = []
    left: list[int] = []
    for group in sorted(groups, key=lambda group: -group.tokens):
        place = next((n for n, room in enumerate(left) if group.tokens <= room), len(rows))
        if place == len(rows):
            rows.append([])
            left.append(max_tokens)
        rows[place].append(group)
        left[place] -= group.tokens
    return rows
