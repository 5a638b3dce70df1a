"""Log-probabilities of folded responses are those of each response alone, and so are gradients."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import cases, zoo
from helpers.text_rows import VOCABULARY, causal_model, stock_model
from helpers.tiny_models import photo
from helpers.unrounded import unrounded
from treepack import errors, families, rl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def alone(model, prompt, response, temperature=1.0, **inputs):
    """Log-probabilities and entropies of one response, from the stock model."""
    ids = torch.tensor([[*prompt, *response]])
    with tp.hf.restore(model):
        logits = model(input_ids=ids, **inputs, use_cache=False).logits[0]
    scores = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)
    own = scores[torch.arange(len(response)), torch.tensor(response, dtype=torch.long)]
    return own, -(scores.exp() * scores).sum(-1)


def far(a, b):
    return float((a - b).detach().abs().max()) if a.numel() else 0.0


def random_responses(rng, vocabulary, count):
    return [rng.integers(0, vocabulary, rng.integers(0, 6)).tolist() for _ in range(count)]


def gradients(model, numbers):
    """Of a loss in which every number has a weight of its own."""
    weights = torch.linspace(0.3, 2, sum(each.numel() for each in numbers), dtype=torch.float64)
    (torch.cat([each.reshape(-1) for each in numbers]) * weights).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("max_tokens", [None, 24])
def test_text(max_tokens):
    model = tp.hf.prepare(causal_model().double())
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, VOCABULARY, n).tolist() for n in (5, 1, 7)]
    responses = [random_responses(rng, VOCABULARY, n) for n in (4, 0, 3)]
    found = rl.logprobs(
        model, prompts, responses, temperature=0.7, entropy=True, max_tokens=max_tokens
    )
    pairs = [(p, r) for p, several in zip(prompts, responses, strict=True) for r in several]
    stock = [alone(model, *pair, temperature=0.7) for pair in pairs]
    assert [len(each) for each in found.logprobs] == [4, 0, 3]
    flat = [[x for each in part for x in each] for part in found]
    for mine, theirs in zip(flat[0], stock, strict=True):
        assert far(mine, theirs[0]) < 1e-12
    for mine, theirs in zip(flat[1], stock, strict=True):
        assert far(mine, theirs[1]) < 1e-12
    mine = gradients(model, [*flat[0], *flat[1]])
    theirs = gradients(model, [each[n] for n in (0, 1) for each in stock])
    scale = max(float(grad.abs().max()) for grad in theirs.values())
    assert mine.keys() == theirs.keys()
    assert max(far(mine[name], theirs[name]) for name in mine) < 1e-12 * scale


def test_padded_batches():
    model = tp.hf.prepare(causal_model().double())
    for rng in cases.cases(5, "padded responses"):
        prompts = [rng.integers(1, VOCABULARY, n).tolist() for n in rng.integers(1, 6, 2)]
        prompts = [prompts[n] for n in rng.integers(0, 2, 5)]
        answers = [r or [3] for r in random_responses(rng, VOCABULARY, 5)]
        ids, mask, width = padded(prompts, answers)
        found = rl.padded_logprobs(model, ids, mask, width, entropy=True)
        for row, pair in enumerate(zip(prompts, answers, strict=True)):
            n = len(pair[1])
            for mine, theirs in zip(found, alone(model, *pair), strict=True):
                assert far(mine[row, :n], theirs) < 1e-12
                assert not mine[row, n:].any()


def padded(prompts, answers):
    left, width = max(map(len, prompts)), max(map(len, answers))
    ids = torch.zeros(len(prompts), left + width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        whole = torch.tensor([*prompt, *answer])
        own = slice(left - len(prompt), left + len(answer))
        ids[row, own], mask[row, own] = whole, 1
    return ids, mask, width


@functools.cache
def make(name):
    processor, model = zoo.build(name)
    return families.find(processor), model


def prompt_of(family, seed):
    """A prompt about an image: what the stock processor makes of it."""
    media = family.placeholders() if hasattr(family, "placeholders") else {}
    image = media.get("image") or {
        "molmo2": "<|image|>",
        "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    }.get(family.name)
    text, pixels = f"See: {image} What is it?", photo(seed, 56 + 8 * seed, 64)
    nests = getattr(family, "nests_images", True)
    made = family.processor(
        text=[text], images=[[pixels]] if nests else [pixels], return_tensors="pt"
    )
    made = {name: torch.as_tensor(np.asarray(value)) for name, value in made.items()}
    ids = made.pop("input_ids")[0].tolist()
    made.pop("attention_mask", None)
    return ids, {k: v for k, v in made.items() if k not in getattr(family, "not_inputs", ())}


def lengthened(media, n):
    """Inputs of a whole path: the response adds text alone."""
    return {
        name: torch.nn.functional.pad(value, (0, n)) if name.endswith("token_type_ids") else value
        for name, value in media.items()
    }


def for_stock(media, n):
    return {
        name: value.double() if value.is_floating_point() else value
        for name, value in lengthened(media, n).items()
    }


@pytest.mark.parametrize("name", sorted(set(zoo.BUILDERS) - {"paligemma"}))
def test_prompts_with_images(name):
    family, model = make(name)
    tp.hf.prepare(model)
    try:
        with unrounded():
            compare(family, model)
    finally:
        tp.hf.restore(model)


def compare(family, model):
    rng = np.random.default_rng(7)
    made = [prompt_of(family, seed) for seed in (0, 1)]
    prompts, media = [each[0] for each in made], [each[1] for each in made]
    responses = [random_responses(rng, 90, n) for n in (3, 2)]
    found = rl.logprobs(model, prompts, responses, media, family=family)
    flat = [each for several in found.logprobs for each in several]
    owner = [0, 0, 0, 1, 1]
    stock = [
        alone(model, prompts[n], response, **for_stock(media[n], len(response)))[0]
        for n, response in zip(owner, functools.reduce(operator.iadd, responses, []), strict=True)
    ]
    scale = max(float(each.detach().abs().max()) for each in stock if each.numel())
    assert max(map(far, flat, stock)) < 1e-9 * scale
    mine, theirs = gradients(model, flat), gradients(model, stock)
    scale = max(float(grad.abs().max()) for grad in theirs.values())
    assert max(far(mine[key], theirs[key]) for key in theirs) < 1e-9 * scale


def test_images_that_differ_are_two_groups_even_with_equal_tokens():
    family, _ = make("qwen3_vl")
    (prompt, media), (_, other) = prompt_of(family, 0), prompt_of(family, 0)
    other = {**other, "pixel_values": other["pixel_values"] + 1}
    folded = rl.fold([prompt] * 3, [[1], [2], [3]], media=[media, media, other], family=family)
    assert folded.tokens == 2 * len(prompt) + 3
    with pytest.raises(errors.BatchError, match="response 1 of group 'a' has other media"):
        rl.fold([prompt] * 2, [[1], [2]], media=[media, other], family=family, groups="aa")


def test_a_model_that_is_not_prepared_is_named():
    with pytest.raises(errors.BatchError, match=r"call tp\.hf\.prepare"):
        rl.logprobs(stock_model("qwen3"), [[1]], [[[2]]])
