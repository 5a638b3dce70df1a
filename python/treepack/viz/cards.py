"""What the examples of a row say, one card each."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

from treepack.viz.contents import Contents, Node
from treepack.viz.markup import fold, said
from treepack.viz.thumbnails import shown

MOST_EXAMPLES = 16
MOST_BRANCHES = 12
"""Of a list, how many are seen before it is unfolded."""

LONG = 900
"""Characters of one node that are seen before it is unfolded."""

SPECIAL = re.compile(r"(&lt;\|[^|\s]*\|&gt;)")
"""How tokenizers write tokens that are markup, after escaping."""

Pieces = Sequence[tuple[str, bool]]


def cards(row: Contents, pictures: Container[int]) -> str:
    """A card for each example.

    Args:
        row: what is shown.
        pictures: numbers of the examples that have one.
    """
    told = ""
    if row.trained.any() and row.tokenizer is not None:
        told = '<p class="note"><b>Words in bold and colour</b> are trained on.</p>'
    return told + fold([_card(row, root, pictures) for root in row.roots()], MOST_EXAMPLES)


def _card(row: Contents, root: Node, pictures: Container[int]) -> str:
    name = row.name(root.example)
    below = [_line(row, *each) for each in row.below(root)]
    body = _line(row, root, "") + fold([line for line in below if line], MOST_BRANCHES)
    picture = shown(root.example, f"image of {name}") if root.example in pictures else ""
    return (
        f'<article class="h{root.hue}"><i class="strong"></i><div>{picture}'
        f"<h3><bdi>{said(name)}</bdi><small>{_size(row, root)}</small></h3>{body}</div></article>"
    )


def _size(row: Contents, root: Node) -> str:
    branches = row.branches[root.example]
    n = root.end - root.start
    tokens = f"{n:,} {'token' if n == 1 else 'tokens'}"
    size = f"root of {tokens}" if branches else tokens
    media = [f"{count:,} of them {kind}" for kind, count in row.media_counts(root).items()]
    size = ", ".join([size, *media])
    return size + (
        f"; {branches:,} {'branch' if branches == 1 else 'branches'}" if branches else ""
    )


def _line(row: Contents, node: Node, tag: str) -> str:
    pieces = row.text(node)
    if not any(text.strip() for text, _ in pieces):
        return ""
    # What goes on from a branch stands further to the right.
    place = f' style="margin-left:{min(node.depth - 1, 8)}em"' if node.depth > 1 else ""
    tag = f'<span class="tag">{said(tag)}</span> ' if tag else ""
    head, rest = _cut(pieces, LONG)
    line = f'<p dir="auto"{place}>{tag}{_words(head)}{" …" if rest else ""}</p>'
    if not rest:
        return line
    count = sum(len(text) for text, _ in rest)
    return (
        f"{line}<details{place}><summary>{count:,} more characters</summary>"
        f'<p dir="auto">{_words(rest)}</p></details>'
    )


def _cut(pieces: Pieces, most: int) -> tuple[Pieces, Pieces]:
    """So many characters of a text, and the others; all of them if few more are left."""
    if sum(len(text) for text, _ in pieces) <= 1.25 * most:
        return pieces, ()
    head, rest = [], []
    for text, trained in pieces:
        head.append((text[:most], trained))
        rest.append((text[most:], trained))
        most = max(most - len(text), 0)
    return [each for each in head if each[0]], [each for each in rest if each[0]]


def _words(pieces: Pieces) -> str:
    return "".join(
        f"<b>{_marked(text)}</b>" if trained and text.strip() else _marked(text)
        for text, trained in pieces
    ).strip()


def _marked(text: str) -> str:
    return SPECIAL.sub(r'<code dir="ltr">\1</code>', said(text))
