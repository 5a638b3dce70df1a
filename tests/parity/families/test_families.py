"""A packed row gives every path the logits, loss and gradients that it gets alone."""

import copy
import functools

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import tiny_models
from helpers.text_rows import stock_model
from helpers.tiny_models import film, photo, record
from helpers.unrounded import unrounded
from torch.nn.functional import cross_entropy
from treepack.families import find

LOGITS = GRADIENTS = 1e-12

A, B = photo(1, 40, 60), photo(2, 64, 30)
CLIP, LONG = film(3), film(4, frames=11, height=40, width=24)
THREE = [
    record("<image>\nWhat is it?", "A cat.", image=A),
    record(["<image>\nIts colour?", "Sure?"], ["Black.", "Yes."], image=A),
    record("<image>\nHow many?", "1", image=A),
]
PAIR = [record("<image><image>\nWhich?", "The 2nd.", image=[B, A])]
LOOK = [record(f"Look: <image> {q}", "ok", image=B) for q in ("left", "right, please")]
FILM = [record(f"<video>\n{q}", a, video=CLIP) for q, a in (("Who?", "He."), ("When?", "At noon."))]
BOTH = [
    record("<image><video><video>\nSame?", "No.", image=A, video=[LONG, CLIP]),
    record("<image><video><video>\nAnd now?", "Yes!", image=A, video=[LONG, CLIP]),
]
TEXT = [record(["Hi", "And?"], ["Ho", "So."], id="text")]
ROWS = {
    "images": [THREE, TEXT, PAIR, LOOK],
    "videos": [FILM, TEXT],
    "everything": [FILM, THREE, TEXT, BOTH, PAIR],
    "text": [TEXT, TEXT],
}
FAMILIES = ("molmo2", "qwen3_vl")


@functools.cache
def make(name):
    """The family, the stock model, and the same model prepared."""
    family = find(getattr(tiny_models, f"{name}_processor")())
    stock = getattr(tiny_models, f"{name}_model")()
    return family, stock, tp.hf.prepare(copy.deepcopy(stock))


@pytest.fixture(autouse=True)
def _unrounded():
    for name in FAMILIES:
        make(name)
    with unrounded():
        yield


def trees(family, rows):
    """Examples that train every token of every branch, the first ones too, with unequal weights."""
    found = []
    for number, group in enumerate(rows):
        (example,) = tp.group_conversations(group)
        tree = family.load(example)
        for place, node in enumerate(tree.children or [tree]):
            node.labels = node.tokens.copy()
            node.weight = 1.0 + number + 0.5 * place
        found.append(tree)
    return found


def paths(tree):
    """Token ids of each path, where its own tokens begin, and the node that ends it."""
    if not tree.children:
        return [(tree.tokens, 0, tree)]
    root = len(tree.tokens)
    return [(np.concatenate([tree.tokens, node.tokens]), root, node) for node in tree.children]


def stock_media(family, rows):
    """Model inputs of the media by the processor alone, where it can say them in one call."""
    (example,) = tp.group_conversations(rows)
    of = {kind: [m.value for m in example.media if m.kind == kind] for kind in ("image", "video")}
    if family.name == "molmo2" and all(of.values()):
        return {k: torch.from_numpy(v) for k, v in family.load(example).media.items()}
    made = {}
    if of["image"]:
        made |= family.processor.image_processor(of["image"], return_tensors="pt")
    for video in of["video"]:
        got = family.processor.video_processor([video], return_tensors="pt")
        made |= {k: torch.cat([made[k], v]) if k in made else v for k, v in got.items()}
    return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}


def alone(family, model, rows, tree):
    """Logits ``[L, vocab]``, targets and weights of the paths of one tree, each run by itself."""
    media = stock_media(family, rows)
    logits, targets, weights = [], [], []
    for tokens, start, node in paths(tree):
        types = family.processor.create_mm_token_type_ids([tokens.tolist()])
        out = model(
            input_ids=torch.from_numpy(tokens)[None],
            mm_token_type_ids=torch.tensor(types),
            use_cache=False,
            **media,
        )
        first = max(start, 1)
        logits.append(out.logits[0, first - 1 :])
        targets += [*tokens[first:].tolist(), node.end_target]
        weights += [node.weight] * (len(tokens) - first + 1)
    return torch.cat(logits), torch.tensor(targets), torch.tensor(weights, dtype=torch.float64)


def gradients(model, loss):
    loss.backward()
    found = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    return found


def difference(mine, theirs):
    """Largest difference of any gradient; a parameter that one of them does not reach counts 0."""
    zero = torch.zeros(())
    pairs = zip(mine, theirs, strict=True)
    pairs = ((zero if x is None else x, zero if y is None else y) for x, y in pairs)
    return max((x - y).abs().max().item() for x, y in pairs)


def compare(family, stock, packed, rows, padding=7):
    """Largest differences of logits, loss and gradients."""
    examples = trees(family, rows)
    total = sum(tree.n_tokens for tree in examples) + padding
    batch = tp.collate(examples, family=family, total=total)
    out = packed(**batch)
    parts = [alone(family, stock, r, tree) for r, tree in zip(rows, examples, strict=True)]
    logits, targets, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    loss = (cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
    assert batch["targets"][0].tolist() == targets.tolist()
    assert logits.abs().max() > 2, "flat logits would hide a wrong mask"
    mine, theirs = gradients(packed, out.loss), gradients(stock, loss)
    return {
        "logits": (out.logits[0] - logits).abs().max().item(),
        "loss": (out.loss - loss).abs().item(),
        "gradients": difference(mine.values(), theirs.values()),
    }


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_path_gets_what_it_gets_alone(name, rows):
    worst = compare(*make(name), ROWS[rows])
    assert worst["logits"] < LOGITS
    # The two are not the same computation, so rounding differs.
    assert worst["logits"] > 0 or rows == "text"
    assert worst["loss"] < GRADIENTS
    assert worst["gradients"] < GRADIENTS


def pure_norm(self, x):
    """The models' norm without its rounding to float32."""
    variance = x.pow(2).mean(-1, keepdim=True)
    return self.weight * (x * torch.rsqrt(variance + self.variance_epsilon))


@pytest.mark.parametrize("name", FAMILIES)
def test_also_with_gradient_checkpointing(name):
    family, stock, packed = make(name)
    packed = copy.deepcopy(packed)
    enable = getattr(packed, "activation_checkpointing_enable", None)
    (enable or packed.gradient_checkpointing_enable)()
    assert any(getattr(module, "gradient_checkpointing", False) for module in packed.modules())
    worst = compare(family, stock, packed, ROWS["everything"])
    assert worst["logits"] < LOGITS
    assert worst["gradients"] < GRADIENTS


@pytest.mark.parametrize("name", FAMILIES)
def test_the_vision_tower_learns(name):
    family, _, packed = make(name)
    batch = tp.collate(trees(family, ROWS["everything"]), family=family)
    found = gradients(packed, packed(**batch).loss)
    untouched = [n for n, g in found.items() if g is None or not g.abs().max() > 0]
    assert untouched == []


@pytest.mark.parametrize("name", FAMILIES)
def test_a_branch_is_blind_to_its_siblings_and_to_other_examples(name):
    family, _, packed = make(name)
    examples = trees(family, ROWS["everything"])
    total = sum(tree.n_tokens for tree in examples) + 3
    with torch.no_grad():
        before = packed(**tp.collate(examples, family=family, total=total)).logits[0]
        changed = examples[1].children[1]
        changed.tokens = changed.tokens[::-1].copy()
        after = packed(**tp.collate(examples, family=family, total=total)).logits[0]
    nodes = [node for tree in examples for node in (tree.children or [tree])]
    # A branch also trains its first token and the end; an example of one node has no first token.
    owner = np.repeat(np.arange(len(nodes)), [len(n.tokens) + (n.key is None) for n in nodes])
    moved = {int(owner[i]) for i in range(len(owner)) if not torch.equal(before[i], after[i])}
    assert moved == {[node is changed for node in nodes].index(True)}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_stock_mask_on_the_same_row_would_be_far_off(name):
    family, stock, packed = make(name)
    batch = tp.collate(trees(family, ROWS["images"]), family=family)
    with torch.no_grad():
        right = packed(**batch).logits
        ours = ("treepack", "labels", "attention_mask", "targets", "loss_weights")
        inputs = {name: value for name, value in batch.items() if name not in ours}
        wrong = stock(**inputs).logits
    assert (right - wrong).abs().max() > 0.5


def deep_tree(rng, depth):
    tokens = rng.integers(0, 50, rng.integers(1, 6))
    children = [deep_tree(rng, depth - 1) for _ in range(rng.integers(1, 4) if depth else 0)]
    return tp.MessageTree(tokens, labels=tokens, end_target=int(tokens[0]), children=children)


def expected_logits(model, node, before=()):
    """Logits ``[L, vocab]`` of a subtree in order of its nodes, each from a path run alone."""
    tokens = [*before, *node.tokens.tolist()]
    logits = model(torch.tensor([tokens]), use_cache=False).logits[0, max(len(before) - 1, 0) :]
    return torch.cat([logits, *(expected_logits(model, child, tokens) for child in node.children)])


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_text_models_train_on_trees_of_any_depth(name, monkeypatch):
    rng = np.random.default_rng(0)
    stock = stock_model(name)
    packed = tp.hf.prepare(copy.deepcopy(stock))
    examples = [deep_tree(rng, depth) for depth in (3, 0, 2)]
    total = sum(tree.n_tokens for tree in examples) + 5
    out = packed(**tp.collate(examples, total=total))
    logits = torch.cat([expected_logits(stock, tree) for tree in examples])
    batch = tp.collate(examples, total=total)
    loss = cross_entropy(logits, batch["targets"][0])
    assert (out.logits[0] - logits).abs().max() < LOGITS
    assert abs(out.loss.item() - loss.item()) < GRADIENTS
    pair = gradients(packed, out.loss), gradients(stock, loss)
    assert difference(*(found.values() for found in pair)) < GRADIENTS
