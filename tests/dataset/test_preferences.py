"""The roles of preference records reach the loss: from a file, through packing, to a row."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import tiny_models
from PIL import Image
from torch.nn.functional import cross_entropy, logsigmoid
from torch.utils.data import DataLoader
from treepack.errors import TreeError

ANSWERS = {"chosen": "good", "rejected": "so bad"}
FAMILIES = {
    "molmo2": (tiny_models.molmo2_processor, tiny_models.molmo2_model, "crops"),
    "qwen3_vl": (tiny_models.qwen3_vl_processor, tiny_models.qwen3_vl_model, "patches"),
}


def write(folder, n=6):
    """Preferences about images, two about each, and about text, and plain answers in between."""
    lines = []
    for i in range(n):
        image = f"{i % (n // 2)}.png"
        Image.fromarray(tiny_models.photo(i)).save(folder / image)
        answers = {role: f"{text} {i}" for role, text in ANSWERS.items()}
        lines += [
            {"image": image, "prompt": f"Q{i}", **answers},
            {"prompt": [{"role": "user", "content": f"T{i}"}], **answers},
            {"image": image, "question": f"P{i}", "answer": f"plain {i}"},
        ]
    path = folder / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def packed(path, family, **options):
    processor = FAMILIES[family][0]()
    budgets = {"tokens": 900, FAMILIES[family][2]: 500}
    source = tp.group_conversations(path)
    return tp.PackedDataset(source, processor=processor, budgets=budgets, pool_size=4, **options)


def answers_of(model, batch):
    """Log-probability of each node's targets, and the row: what the guide says."""
    row, logits = batch["treepack"], model(**batch).logits[0].float()
    each = -cross_entropy(logits, batch["targets"][0], reduction="none")
    node = torch.from_numpy(row.target_node)
    return row, each.new_zeros(row.mask.n_nodes).index_add(0, node, each)


def said(batch, node, tokenizer):
    row = batch["treepack"]
    targets = batch["targets"][0][torch.from_numpy(row.target_node == node)]
    return tokenizer.decode(targets[:-1].tolist())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loss_finds_which_answer_is_better(tmp_path, family, workers):
    dataset = packed(write(tmp_path), family)
    tokenizer = FAMILIES[family][0]().tokenizer
    found = {role: [] for role in ANSWERS}
    plain = []
    for batch in DataLoader(dataset, None, num_workers=workers):
        batch = batch.to("cpu", torch.float32)
        row = batch["treepack"]
        chosen, rejected = (row.nodes_of(role) for role in ANSWERS)
        # The n-th of one and the n-th of the other answer one prompt.
        assert np.array_equal(row.mask.node_example[chosen], row.mask.node_example[rejected])
        texts = {r: [said(batch, n, tokenizer) for n in row.nodes_of(r)] for r in ANSWERS}
        assert [t.split()[-1] for t in texts["chosen"]] == [
            t.split()[-1] for t in texts["rejected"]
        ]
        for role in ANSWERS:
            found[role] += texts[role]
        trained = np.flatnonzero(row.target_counts)
        others = [n for n in trained if row.roles is None or row.roles[n] is None]
        plain += [said(batch, node, tokenizer) for node in others]
    for role, text in ANSWERS.items():
        assert sorted(found[role]) == sorted(f"{text} {i}" for i in range(6) for _ in range(2))
    assert sorted(plain) == [f"plain {i}" for i in range(6)]


def branches_with_roles(tree):
    """The answers that have a role, each with its prompt as one node."""

    def go(node, prompt):
        if node.role is not None:
            labels = [-100] * len(prompt) + node.labels.tolist()
            ids = [*prompt, *node.tokens.tolist()]
            yield node.role, tp.MessageTree(ids, labels, end_target=node.end_target)
        for child in node.children:
            yield from go(child, [*prompt, *node.tokens.tolist()])

    for child in tree.children:
        yield from go(child, [])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_has_the_log_probability_that_it_has_alone(tmp_path, family):
    dataset = packed(write(tmp_path), family)
    model = tp.hf.prepare(FAMILIES[family][1]()).float()
    n_pairs = 0
    for batch in dataset:
        row, answers = answers_of(model, batch.to("cpu", torch.float32))
        chosen, rejected = (answers[row.nodes_of(role)] for role in ANSWERS)
        n_pairs += len(chosen)
        alone = {role: [] for role in ANSWERS}
        for key in row.keys:
            (place,) = [i for i, e in enumerate(dataset.source) if e.key == key]
            tree = dataset.family.load(dataset.source[place])
            for role, branch in branches_with_roles(tree):
                single = copy.copy(tree)
                single.children = (branch,)
                _, values = answers_of(model, tp.collate([single], family=dataset.family))
                alone[role].append(values.sum().item())
        assert chosen.tolist() == pytest.approx(alone["chosen"], rel=1e-4)
        assert rejected.tolist() == pytest.approx(alone["rejected"], rel=1e-4)
        if len(chosen):
            loss = -logsigmoid(0.1 * (chosen - rejected)).mean()
            loss.backward()
            assert torch.isfinite(loss)
    assert n_pairs == 12


def test_roles_survive_whatever_moves_a_row():
    answers = [tp.MessageTree([7], role=role) for role in ("good", None, "bad")]
    batch = tp.collate([tp.MessageTree([1], children=answers), tp.MessageTree([2], role="good")])
    roles = (None, "good", None, "bad", "good")
    moved = [batch, batch.to("cpu"), batch.to(torch.bfloat16), batch.copy(), copy.copy(batch)]
    for one in [*moved, pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), batch.to("meta")]:
        assert one["treepack"].roles == roles
        assert one["treepack"].nodes_of("good").tolist() == [1, 4]
    assert batch["treepack"].nodes_of("other").tolist() == []


def test_a_row_without_roles_carries_none():
    row = tp.collate([tp.MessageTree([1], children=[tp.MessageTree([2])])])["treepack"]
    assert row.roles is None
    assert row.nodes_of("chosen").dtype == np.int64
    assert row.nodes_of("chosen").tolist() == []


@pytest.mark.parametrize("role", [7, True, ["chosen"], b"chosen"])
def test_a_role_is_a_text(role):
    with pytest.raises(TreeError, match="example 'x': role must be a text"):
        tp.MessageTree([1], key="x", role=role)
