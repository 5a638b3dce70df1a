"""Conversations that begin alike share nodes: every path is the conversation, token by token."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import treepack as tp
from helpers import cases, tiny_models, zoo
from helpers.tiny_models import photo
from treepack import families
from treepack.families import ChatFormat
from treepack.families.base import _targets_below
from treepack.measuring.shapes import shape_of_outline, shape_of_tree
from treepack.tree import IGNORE

CHAT = ChatFormat("Q: ", " A: ", end="<|im_end|>")


@functools.cache
def text_family():
    return families.find(tiny_models.byte_tokenizer(), "text", CHAT)


@functools.cache
def make(name):
    return text_family() if name == "text" else families.find(zoo.build(name)[0])


def random_conversations(rng, with_media=True, extras=True):
    """Conversations of few different texts, so that many begin alike."""
    n = int(rng.integers(1, 7))

    def turn():
        weight = float(rng.choice([0.0, 1.0, 1.0, 2.5]))
        return "Why?" if rng.random() < 0.5 else "What?", "ab"[rng.integers(2)], weight

    branches = [[turn() for _ in range(rng.integers(1, 4))] for _ in range(n)]
    media = [("image", photo(1))] if with_media else ()
    roles = [[None, "chosen", "rejected"][i] for i in rng.integers(0, 3, n)] if extras else ()
    values = rng.integers(0, 2, n).tolist()
    channels = {"advantage": values} if extras and rng.random() < 0.5 else {}
    return tp.Conversations(branches, media, roles=roles, channels=channels, key=7)


def alone(example, number):
    """One conversation of an example as an example of its own."""
    return tp.Conversations([example.branches[number]], example.media, key=example.key)


def walk(tree):
    """For each leaf its node and the nodes from below the root to it."""
    nodes = [node for node, _ in tree.nodes()]
    parents = tree.parents
    for leaf in sorted(set(range(1, len(nodes))) - set(parents)):
        path = [leaf]
        while parents[path[-1]] > 0:
            path.append(parents[path[-1]])
        yield nodes[leaf], [nodes[n] for n in reversed(path)]


def loss_terms(tree):
    """Summed weight of each target, by all that stands before it below the root."""
    found = {}

    def add(before, target, weight):
        if weight:
            found[(*before, target)] = found.get((*before, target), 0) + float(weight)

    def go(node, before):
        n = len(node.tokens)
        weights = [node.weight] * n if isinstance(node.weight, float) else node.weight.tolist()
        labels = [IGNORE] * n if node.labels is None else node.labels.tolist()
        for place in range(n):
            if labels[place] != IGNORE:
                add((*before, *node.tokens[:place].tolist()), labels[place], weights[place])
        after = (*before, *node.tokens.tolist())
        if node.end_target is not None:
            add(after, node.end_target, weights[-1] if n else node.weight)
        for child in node.children:
            go(child, after)

    for child in tree.children:
        go(child, ())
    return found


@pytest.mark.parametrize("name", ["text", "qwen3_vl", "internvl"])
def test_paths_are_the_conversations(name):
    family, shared = make(name), 0
    for rng in cases.cases(60, f"shared turns of {name}"):
        example = random_conversations(rng, name != "text")
        if name == "text" and len(example.branches) < 2:
            continue
        tree, outline = family.load(example), family.outline(example)
        order = outline.order or range(len(example.branches))
        leaves = list(walk(tree))
        assert sorted(order) == list(range(len(example.branches)))
        for number, (leaf, path) in zip(order, leaves, strict=True):
            written = family.branches(example)[number]
            assert np.concatenate([node.tokens for node in path]).tolist() == written.tokens
            assert leaf.response_id == number
            assert leaf.role == example.roles[number]
            assert leaf.end_target == written.end_target
        shared += any(len(path) > 1 for _, path in leaves)
        # The same loss as of trees that share nothing but the root.
        flat = tp.MessageTree(
            tree.tokens,
            children=[
                tp.MessageTree(w.tokens, w.labels, w.weight, w.end_target)
                for w in family.branches(example)
            ],
        )
        mine, theirs = loss_terms(tree), loss_terms(flat)
        assert mine.keys() == theirs.keys()
        assert all(mine[key] == pytest.approx(theirs[key]) for key in mine)
        assert tree.n_tokens <= flat.n_tokens
    assert shared > 10


@pytest.mark.parametrize("name", ["text", "qwen3_vl", "internvl"])
def test_what_is_measured_is_what_is_loaded(name):
    family = make(name)
    for rng in cases.cases(60, f"measured shared turns of {name}"):
        example = random_conversations(rng, name != "text")
        tree, outline = family.load(example), family.outline(example)
        assert outline.costs == tree.cost == family.measure(example)
        if tree.children:
            lengths, common = tree.branch_lengths()
            assert outline.branches == tuple(lengths)
            assert outline.shared in ((), tuple(common))
            assert tree.n_tokens - outline.root == sum(lengths) - sum(common)
            assert _targets_below(tree) == outline.targets
        mode = family.bidirectional
        assert shape_of_outline(outline, mode) == shape_of_tree(tree, mode)


def test_channels_of_conversations_come_out_next_to_their_targets():
    family = text_family()
    for rng in cases.cases(60, "channels of conversations"):
        example = random_conversations(rng, with_media=False)
        if not example.channels:
            continue
        tree = family.load(example)
        row = tp.collate([tree])["treepack"]
        if not row.channels:
            assert not row.target_counts.any()
            continue
        values = row.channels["advantage"].numpy()
        for number, node in enumerate(node for node, _ in tree.nodes()):
            if node.response_id is not None:
                own = values[row.target_node == number]
                assert (own == example.channels["advantage"][node.response_id]).all()


def test_answers_with_a_role_stay_apart_and_prompts_do_not():
    example = tp.Conversations(
        [[("Why?", "so"), ("What?", "a")], [("Why?", "so"), ("What?", "a")]],
        roles=["chosen", "rejected"],
    )
    tree = text_family().load(example)
    (prompt,) = tree.children
    assert [leaf.role for leaf in prompt.children] == ["chosen", "rejected"]
    assert [len(leaf.tokens) for leaf in prompt.children] == [1, 1]


def test_templates_that_write_the_last_turn_differently_share_no_more_than_is_equal():
    template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}(think)"
        "{% endif %}{{ m.content }}$\n{% endfor %}"
    )
    tokenizer = tiny_models.byte_tokenizer()
    tokenizer.chat_template = template
    family = families.find(tokenizer, "text")
    example = tp.Conversations([[("Why?", "so")], [("Why?", "so"), ("What?", "a")]])
    tree = family.load(example)
    texts = [tokenizer.decode(np.concatenate([n.tokens for n in path])) for _, path in walk(tree)]
    assert texts == [
        "Why?$\n<assistant>(think)so",
        "Why?$\n<assistant>so$\n<user>What?$\n<assistant>(think)a",
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response_ids": [1]}, "1 response_ids for 2 branches"),
        ({"channels": [1]}, "channels is a list; it must be a dict by name"),
        ({"channels": {"a": [1.0]}}, "1 numbers of channel 'a' for 2 branches"),
        ({"channels": {"a": [1.0, float("inf")]}}, "channel 'a' must have a finite number"),
        ({"channels": {"a": [1.0, "x"]}}, "channel 'a' must have a finite number"),
    ],
)
def test_what_conversations_cannot_be_is_named(fields, message):
    with pytest.raises(tp.errors.DataError, match=f"example 5: {message}"):
        tp.Conversations([[("a", "b")], [("c", "d")]], key=5, **fields)
