"""Every row runs the vision tower where it is asked to, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
import treepack as tp
from helpers import tiny_models
from treepack.errors import BudgetError, DatasetError, FamilyError

FAMILIES = ["molmo2", "qwen3_vl"]


@pytest.fixture(autouse=True)
def _has_family(request):
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    if name == "molmo2" and not hasattr(transformers, "Molmo2Processor"):
        pytest.skip("this transformers has no Molmo2")


def family_of(name):
    return tp.families.find(getattr(tiny_models, f"{name}_processor")())


def records():
    """Two of text alone, then one with an image."""
    texts = [tiny_models.record(f"Q{n}?", "An answer.", id=f"text {n}") for n in range(2)]
    return [
        *texts,
        tiny_models.record("<image>\nWhat?", "A cat.", image=tiny_models.photo(1, 40, 60)),
    ]


def dataset(name, fill, source=None, **options):
    family = family_of(name)
    budgets = {"tokens": 160, family.vision_cost: 400}
    source = records()[:2] if source is None else source
    source = tp.group_conversations(source) if isinstance(source, list) else source
    settings = {"budgets": budgets, "shuffle": False, "pool_size": 4, **options}
    return tp.PackedDataset(source, family=family, vision_on_every_row=fill, **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_are_unchanged_and_the_tower_has_some(name):
    plain, filled = (
        next(iter(dataset(name, fill, pad_to_budget=True))).to(torch.float64)
        for fill in (False, True)
    )
    assert plain["input_ids"].shape == filled["input_ids"].shape
    assert "pixel_values" in filled
    assert "pixel_values" not in plain
    model = tp.hf.prepare(getattr(tiny_models, f"{name}_model")())
    found = []
    for batch in (plain, filled):
        model.zero_grad(set_to_none=True)
        loss = model(**batch).loss
        loss.backward()
        found.append((loss, {n: copy.copy(p.grad) for n, p in model.named_parameters()}))
    (loss, without), (same, grads) = found
    assert torch.equal(loss, same)
    towers = {n for n, grad in without.items() if grad is None}
    assert towers
    for n, grad in grads.items():
        # Zero and not None: what a reduction over ranks waits for.
        wanted = torch.zeros_like(grad) if n in towers else without[n]
        assert grad is not None
        assert torch.equal(grad, wanted), n


@pytest.mark.parametrize("name", FAMILIES)
def test_no_budget_is_broken_and_the_room_is_kept_in_every_row(name):
    reserved = family_of(name).fill_cost(True)
    stream = dataset(name, True, source=records())
    assert stream.settings.policy.budgets == {
        budget: size - reserved.get(budget, 0) for budget, size in stream.budgets.items()
    }
    for batch in stream:
        assert batch["input_ids"].shape[1] <= stream.budgets["tokens"]
        assert batch["pixel_values"].ndim
    tight = {budget: reserved.get(budget, 1) for budget in stream.budgets}
    with pytest.raises(BudgetError, match="vision_on_every_row keeps"):
        dataset(name, True, budgets=tight)


def test_what_cannot_be_filled_is_rejected():
    with pytest.raises(DatasetError, match="needs the family"):
        tp.PackedDataset([tp.MessageTree([1])], budgets={"tokens": 4}, vision_on_every_row=True)
    with pytest.raises(FamilyError, match="fill names 'sound'"):
        dataset("qwen3_vl", "sound")


def test_rows_are_the_same_but_for_the_padding_at_their_end():
    for plain, filled in zip(dataset("qwen3_vl", False), dataset("qwen3_vl", True), strict=True):
        used = plain["treepack"].mask.used
        assert filled["treepack"].mask.used == used
        assert filled["treepack"].keys == plain["treepack"].keys
        ids = [batch["input_ids"][0, :used].numpy() for batch in (plain, filled)]
        assert np.array_equal(*ids)
        assert torch.equal(plain["targets"], filled["targets"])


def rank_of_two(fill=None, source=None, **options):
    return dataset("qwen3_vl", fill, source=source, shard=(1, 2), virtual_shards=2, **options)


def alternating(*kinds, n=4):
    """Records of which rank 1 of 2 has those of the given kinds of media."""
    each = []
    for i in range(n):
        seen = {"image": tiny_models.photo(i, 40, 60), "video": tiny_models.film(i, 2)}
        question = "".join(f"<{kind}>\n" for kind in kinds) + f"What? {i}"
        own = {kind: seen[kind] for kind in kinds}
        other = tiny_models.photo(100 + i, 40, 60)
        each.append(tiny_models.record("<image>\nWhat?", "A cat.", id=f"0 {i}", image=other))
        each.append(tiny_models.record(question, "A dog.", id=f"1 {i}", **own))
    return each


ROOMY = {"tokens": 400, "patches": 4000}


@pytest.mark.parametrize("kinds", [(), ("image", "video")])
def test_ranks_have_to_decide_before_they_wait_for_each_other(kinds):
    options = {"source": alternating(*kinds), "budgets": ROOMY}
    says = rf"rank 1 of 2: the row of \['1 0'.*{' and '.join(kinds) or 'text alone'}.*True.*False"
    with pytest.raises(DatasetError, match=says):
        next(iter(rank_of_two(**options)))
    # Not an error of the examples, so none is skipped for it.
    with pytest.raises(DatasetError, match=says):
        next(iter(rank_of_two(on_error="skip", **options)))
    for fill in (True, False):
        rows = list(rank_of_two(fill, **options))
        assert sum(len(row["treepack"].keys) for row in rows) == 4
    # One process waits for nobody.
    assert list(dataset("qwen3_vl", None, virtual_shards=2, **options))


@pytest.mark.parametrize("kind", ["image", "video"])
def test_rows_of_one_kind_need_no_decision(kind):
    assert list(rank_of_two(source=alternating(kind), budgets=ROOMY))


def test_nothing_is_lost_when_a_row_needs_a_decision():
    source = [*alternating("image", n=2)[:3], tiny_models.record("Why?", "So.", id="text")]
    options = {"source": source, "budgets": ROOMY, "pool_size": 1}
    stream = rank_of_two(**options)
    rows = iter(stream)
    assert next(rows)["treepack"].keys == ["1 0"]
    saved = stream.state_dict()
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"the row of \['text'\]"):
            next(rows)
        assert stream.state_dict() == saved
    # A state fits a dataset that has decided for no padding.
    decided = rank_of_two(False, **options)
    decided.load_state_dict(saved)
    assert [row["treepack"].keys for row in decided] == [["text"]]


def test_trees_of_ones_own_and_families_without_towers_need_no_decision():
    trees = [tp.MessageTree([1, 2], key=i) for i in range(4)]
    stream = tp.PackedDataset(trees, budgets={"tokens": 4}, shard=(1, 2))
    assert stream.settings.vision_on_every_row is None
    assert list(stream)


def test_the_first_rank_warns_when_it_begins(caplog):
    def warnings_of(fill, shard):
        caplog.clear()
        iter(dataset("qwen3_vl", fill, source=alternating("image"), budgets=ROOMY, shard=shard))
        return [record.getMessage() for record in caplog.records]

    (said,) = warnings_of(None, (0, 2))
    assert "vision_on_every_row is not set, and 2 ranks" in said
    for fill, shard in ((None, (1, 2)), (None, (0, 1)), (True, (0, 2)), (False, (0, 2))):
        assert warnings_of(fill, shard) == []


def test_checks_of_ones_own_data_need_no_decision():
    source = tp.group_conversations(alternating())
    family = family_of("qwen3_vl")
    stream = tp.PackedDataset(source, family=family, budgets=ROOMY, virtual_shards=4)
    tp.testing.check_same_packs_for_any_topology(stream, [(1, 0), (2, 0)])


class Gone:
    """Examples of which one alone can be loaded."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index != 3:
            raise OSError("gone")
        return self.source[index]


@pytest.mark.parametrize("pad_to_budget", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_filler_runs_the_tower_and_its_gradients_are_zero(name, pad_to_budget):
    family = family_of(name)
    source = tp.group_conversations(alternating("image", n=5))
    packed = tp.PackedDataset(
        Gone(source),
        family=family,
        costs=tp.costs.measure(source, family, workers=0),
        budgets={"tokens": 160, family.vision_cost: 400},
        balance=tp.Balance(),
        on_error="skip",
        vision_on_every_row=True,
        pad_to_budget=pad_to_budget,
    )
    fillers = [row for row in packed if row["treepack"].stats["filler"]]
    assert fillers
    model = tp.hf.prepare(getattr(tiny_models, f"{name}_model")())
    for row in fillers:
        assert "pixel_values" in row
        model.zero_grad(set_to_none=True)
        loss = model(**row.to(torch.float64)).loss
        loss.backward()
        assert loss == 0
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_filler_is_a_row_of_text_alone_where_nobody_says_what_the_tower_does():
    source = tp.group_conversations(alternating("image"))
    costs = tp.costs.measure(source, family_of("qwen3_vl"), workers=0)
    options = {"costs": costs, "balance": tp.Balance(), "on_error": "skip"}
    rows = iter(dataset("qwen3_vl", None, Gone(source), shard=(0, 2), **options))
    with pytest.raises(DatasetError, match=r"text alone.*vision_on_every_row=True"):
        list(rows)
