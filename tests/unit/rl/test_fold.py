"""Folded responses: each sees its own prompt and itself, and nothing is computed twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import cases
from treepack import errors, rl
from treepack._reference import folding


def random_case(rng, prompts=3, letters=3):
    """Prompts, some of which begin alike, and responses of few different tokens."""
    heads = [rng.integers(0, letters, rng.integers(1, 6)) for _ in range(rng.integers(1, prompts))]
    n = int(rng.integers(1, 9))
    chosen = [heads[i] for i in rng.integers(0, len(heads), n)]
    return chosen, [rng.integers(0, letters, rng.integers(0, 6)) for _ in range(n)]


def check_laws(folded, prompts, responses):
    """Each target is the response's token, predicted from the prompt and the tokens before it."""
    for n, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        batch, at = folded.rows[folded.row_of[n]], torch.from_numpy(folded.targets[n])
        assert batch["targets"][0, at].tolist() == list(response)
        sees, ids = batch["treepack"].mask.to_dense(), batch["input_ids"][0]
        whole = [*prompt, *response]
        for place, row in enumerate(batch["logits_to_keep"][at].tolist()):
            assert ids[torch.from_numpy(sees[row])].tolist() == whole[: len(prompt) + place]


@pytest.mark.parametrize("forks_early", [False, True])
def test_the_laws_of_random_responses(forks_early):
    for rng in cases.cases(200, f"fold {forks_early}"):
        prompts, responses = random_case(rng)
        folded = rl.fold(prompts, responses, forks_early=forks_early)
        check_laws(folded, prompts, responses)
        whole = [(*p.tolist(), *r.tolist()) for p, r in zip(prompts, responses, strict=True)]
        least = folding.tokens(whole, [tuple(prompt.tolist()) for prompt in prompts])
        assert folded.unshared_tokens == sum(map(len, whole))
        assert least <= folded.tokens <= folded.unshared_tokens
        if not forks_early:
            assert folded.tokens == least


def test_each_token_predicts_one_target_where_forks_are_early():
    for rng in cases.cases(200, "fold early"):
        prompts, responses = random_case(rng)
        folded = rl.fold(prompts, responses, forks_early=True)
        labels = folded.shift_labels(0)
        batch = folded.rows[0]
        assert labels.shape == batch["input_ids"].shape
        assert labels[0, batch["logits_to_keep"]].tolist() == batch["targets"][0].tolist()
        assert (labels >= 0).sum() == len(batch["logits_to_keep"].unique())
        found = folded.unfold_tokens([labels])
        assert [each.tolist() for each in found] == [each.tolist() for each in responses]


def test_prompts_of_a_group_share_what_they_begin_with():
    # The second prompt is the first with its response, and a second question.
    prompts = [[1, 2], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [9]]
    responses = [[3, 4], [6], [7, 7], [8]]
    folded = rl.fold(prompts, responses, groups=["a", "a", "a", "b"])
    check_laws(folded, prompts, responses)
    assert folded.tokens == folding.tokens(
        [(*p, *r) for p, r in zip(prompts, responses, strict=True)], ["a", "a", "a", "b"]
    )
    apart = rl.fold(prompts, responses)
    check_laws(apart, prompts, responses)
    assert apart.tokens == folded.tokens + 4


def test_rows_keep_to_their_tokens_and_lose_nobody():
    for rng in cases.cases(200, "fold rows"):
        prompts, responses = random_case(rng)
        most = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
        room = int(most + rng.integers(0, 12))
        folded = rl.fold(prompts, responses, max_tokens=room, forks_early=bool(rng.integers(2)))
        check_laws(folded, prompts, responses)
        assert all(batch["input_ids"].shape[1] <= room for batch in folded.rows)
        assert set(folded.row_of) == set(range(len(folded.rows)))


def test_numbers_of_the_rows_come_back_to_their_responses():
    rng = np.random.default_rng(3)
    prompts, responses = random_case(rng)
    folded = rl.fold(prompts, responses, max_tokens=14)
    values = [
        (batch["targets"][0] * 10 + row).double().requires_grad_()
        for row, batch in enumerate(folded.rows)
    ]
    found = folded.unfold(values)
    for n, response in enumerate(responses):
        assert found[n].tolist() == [10 * token + folded.row_of[n] for token in response]
    sum(each.sum() for each in found).backward()
    assert sum(float(each.grad.sum()) for each in values) == sum(map(len, responses))


@pytest.mark.parametrize(
    ("prompts", "responses", "options", "message"),
    [
        ([[1]], [], {}, "1 prompts for 0 responses"),
        ([], [], {}, "there is no prompt"),
        ([[]], [[1]], {}, "prompt 0 is empty"),
        ([[1]], [[-2]], {}, "response 0 must be token ids.* with -2"),
        ([[1.5]], [[2]], {}, "prompt 0 must be token ids.*float64"),
        ([[1], [1]], [[2], [2] * 9], {"max_tokens": 8}, "response 1 has 10 tokens .* is 8"),
        ([[1], [2]], [[3], [4]], {"groups": "aa"}, r"group 'a' have nothing in common.*\[1, 2\]"),
        ([[1]], [[3]], {"groups": []}, "0 groups for 1 responses"),
        ([[1]], [[3]], {"media": [{"pixel_values": torch.ones(1)}]}, "pass family="),
    ],
)
def test_what_cannot_be_folded_is_named(prompts, responses, options, message):
    with pytest.raises(errors.BatchError, match=message):
        rl.fold(prompts, responses, **options)


def test_labels_for_each_token_need_early_forks():
    folded = rl.fold([[1, 2], [1, 2]], [[3], [4]])
    with pytest.raises(errors.BatchError, match="forks_early=True"):
        folded.shift_labels(0)


def test_numbers_that_do_not_fit_are_named():
    folded = rl.fold([[1, 2]], [[3]])
    with pytest.raises(errors.BatchError, match="2 lists of numbers for 1 rows"):
        folded.unfold([torch.zeros(1)] * 2)
    with pytest.raises(errors.BatchError, match="2 numbers for a row of 3 tokens"):
        folded.unfold_tokens([torch.zeros(2)])
    with pytest.raises(errors.BatchError, match="3 numbers for row 0, which has 1 targets"):
        folded.unfold([torch.zeros(3)])
