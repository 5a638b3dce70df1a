"""Conversations that begin alike, as nodes that they share: each is computed once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from treepack.families.chat_format import Written
from treepack.sources.conversations import Conversations
from treepack.tree import IGNORE, MessageTree


class Piece(NamedTuple):
    """A part of some conversations, which becomes a node.

    Attributes:
        members: numbers of the conversations that have it.
        start: place of its first token in each of them.
        end: place behind its last token.
        parent: number of the piece before it, -1 for none.
        is_last: whether its one conversation ends with it.
    """

    members: list[int]
    start: int
    end: int
    parent: int
    is_last: bool


def may_share(conversations: Conversations) -> bool:
    """Whether some conversations begin with the same question.

    Args:
        conversations: the example.
    """
    firsts = {turns[0].question for turns in conversations.branches}
    return len(firsts) < len(conversations.branches)


class Grown(NamedTuple):
    """The branches of an example.

    Attributes:
        children: of its root.
        order: for each leaf, in the order of the tree, the number of its conversation.
    """

    children: list[MessageTree]
    order: tuple[int, ...]


def grow(conversations: Conversations, written: Sequence[Written]) -> Grown:
    """The branches of an example, which share the turns with which they begin.

    Shared are whole questions and answers, as far as the tokens of two conversations are equal,
    markup included. An answer that several share is trained once, with the sum of their weights.
    Every conversation ends in a leaf of its own, which has its role, its channels and its id; a
    last answer that has a role or channels is never shared.

    Args:
        conversations: the example.
        written: its conversations in tokens.
    """
    if not may_share(conversations):
        order = range(len(written))
        leaves = [_leaf(conversations, written[n], n, 0) for n in order]
        return Grown(leaves, tuple(order))
    pieces = _pieces(conversations, written)
    below: list[list[MessageTree]] = [[] for _ in pieces]
    tops: list[MessageTree] = []
    for piece, children in reversed(list(zip(pieces, below, strict=True))):
        if piece.is_last:
            number = piece.members[0]
            node = _leaf(conversations, written[number], number, piece.start)
        else:
            node = _shared(conversations, written, piece, reversed(children))
        (below[piece.parent] if piece.parent >= 0 else tops).append(node)
    return Grown(tops[::-1], tuple([p.members[0] for p in pieces if p.is_last]))


def _pieces(conversations: Conversations, written: Sequence[Written]) -> list[Piece]:
    """Parents before children, depth first, in the order in which conversations begin."""
    edges = [(0, *each.cuts) for each in written]
    found: list[Piece] = []
    waiting = [(list(range(len(written))), 0, -1)]
    while waiting:
        members, first, parent = waiting.pop()
        start = edges[members[0]][first]
        if len(members) == 1:
            end = len(written[members[0]].tokens)
            found.append(Piece(members, start, end, parent, True))
            continue
        last = first
        while len(parts := _parts(conversations, written, edges, members, last)) == 1:
            last += 1
        if last > first:
            found.append(Piece(members, start, edges[members[0]][last], parent, False))
            parent = len(found) - 1
        waiting += [(part, last, parent) for part in reversed(parts)]
    return found


def _parts(
    conversations: Conversations,
    written: Sequence[Written],
    edges: Sequence[tuple[int, ...]],
    members: Iterable[int],
    place: int,
) -> list[list[int]]:
    """Conversations by the question or answer that they go on with at a place."""
    parts: dict[Hashable, list[int]] = {}
    for number in members:
        own = edges[number]
        key: Hashable = number
        if place + 1 < len(own):
            is_end = place + 2 == len(own)
            key = _key(conversations, written[number], number, own[place], own[place + 1], is_end)
        parts.setdefault(key, []).append(number)
    return list(parts.values())


def _key(
    conversations: Conversations, written: Written, number: int, start: int, end: int, is_end: bool
) -> Hashable:
    """What conversations must have in common to share a question or an answer."""
    channels = tuple((name, each[number]) for name, each in conversations.channels.items())
    if is_end and (channels or conversations.roles[number] is not None):
        return number
    is_trained = any(label != IGNORE for label in written.labels[start:end])
    return tuple(written.tokens[start:end]), is_trained and channels


def _leaf(conversations: Conversations, written: Written, number: int, start: int) -> MessageTree:
    """What a conversation shares with no other, from one of its tokens on."""
    weight = written.weight
    if start and not isinstance(weight, float):
        weight = weight[start:] if start < len(written.tokens) else float(weight[-1])
    return MessageTree(
        written.tokens[start:],
        written.labels[start:],
        weight,
        written.end_target,
        **told(conversations, number),
    )


def told(conversations: Conversations, number: int) -> dict[str, Any]:
    """What the last node of a conversation says of it, as arguments of a `MessageTree`.

    Args:
        conversations: the example.
        number: of the conversation.
    """
    ids = conversations.response_ids
    return {
        "role": conversations.roles[number],
        "response_id": ids[number] if ids else number,
        "channels": _channels(conversations, number),
    }


def _channels(conversations: Conversations, number: int) -> dict[str, float] | None:
    return {name: each[number] for name, each in conversations.channels.items()} or None


def _shared(
    conversations: Conversations,
    written: Sequence[Written],
    piece: Piece,
    children: Iterable[MessageTree],
) -> MessageTree:
    own = slice(piece.start, piece.end)
    tokens = np.array(written[piece.members[0]].tokens[own], np.int64)
    weights, is_trained = np.zeros(len(tokens), np.float32), np.zeros(len(tokens), bool)
    for number in piece.members:
        each = written[number]
        weight = each.weight if isinstance(each.weight, float) else each.weight[own]
        trains = np.array(each.labels[own]) != IGNORE
        weights += weight * trains
        is_trained |= trains
    labels = np.where(is_trained, tokens, IGNORE) if is_trained.any() else None
    different = set(weights[is_trained].tolist())
    return MessageTree(
        tokens,
        labels,
        weights if len(different) > 1 else different.pop() if different else 1.0,
        children=children,
        channels=_channels(conversations, piece.members[0]) if labels is not None else None,
    )
