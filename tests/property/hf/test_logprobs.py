"""Log-probabilities without logits are those of the reference, and so are their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import treepack as tp
from helpers.cases import cases
from helpers.losses.heads import Headed, Low, Stacked, cut_finely, deferred, leaf
from torch import nn
from treepack._reference.logprobs import token_statistics
from treepack.hf.head.deferred import DeferredLogits
from treepack.hf.logprobs import find

ERROR = 1e-12
AFTER = {
    "nothing": lambda y: y,
    "soft cap": lambda y: torch.tanh(y / 3.0) * 3.0,
    "no more than 1": lambda y: (y / 3.0).tanh(),
    "scale": lambda y: y * 0.25,
    "Granite": lambda y: y / 4.0,
    "capped and cast": lambda y: (2 * (y.clone() / 2).tanh()).to(torch.float64).contiguous(),
    "reversed": lambda y: -(y + 1.0) - 0.5,
    "clamped": lambda y: y.clamp(-2.0, max=2.5),
}
HEADS = {
    "linear": lambda h, v: nn.Linear(h, v, bias=False),
    "bias": nn.Linear,
    "stacked": Stacked,
    "own forward": Low,
}


def targets_of(rng, length, vocabulary):
    """Ignored ones, the first token and the last among them."""
    found = rng.integers(0, vocabulary, length)
    found[rng.random(length) < 0.2] = -100
    found[rng.random(length) < 0.1] = vocabulary - 1
    return torch.from_numpy(found)[None]


def weigh(rng, length):
    """A function of what was found, each part with weights of its own."""
    weights = torch.from_numpy(rng.standard_normal((3, length)))
    return lambda *parts: sum((w * part).sum() for w, part in zip(weights, parts, strict=True))


def gradients_of(value, *leaves):
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def near(found, expected):
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=ERROR * scale)


@pytest.mark.parametrize("kind", HEADS)
def test_slices_and_chunks_are_the_reference(monkeypatch, kind):
    for rng in cases(60, f"log-probabilities of {kind}"):
        length, width, vocabulary = (int(rng.integers(low, 12)) for low in (0, 1, 2))
        # Neither the vocabulary nor the positions need be divisible.
        cut_finely(monkeypatch, int(rng.integers(1, 40)))
        head, after = HEADS[kind](width, vocabulary).double(), AFTER[rng.choice(list(AFTER))]
        hidden, targets = leaf(rng, 1, length, width, scale=3), targets_of(rng, length, vocabulary)
        temperature = float(rng.choice([1.0, 0.3, 2.0]))
        learns = [hidden, *head.parameters()]
        value = weigh(rng, length)

        logits = after(head(hidden))[0] / temperature
        expected = token_statistics(logits, targets[0])
        wanted = gradients_of(value(*expected), *learns)

        given = deferred(head, after)(hidden)["logits"]
        assert isinstance(given, DeferredLogits)
        found = find(given, targets, temperature=temperature, entropy=True, mean=True)
        for part, reference in zip(found, expected, strict=True):
            near(part[0], reference)
        for gradient, reference in zip(gradients_of(value(*found), *learns), wanted, strict=True):
            near(gradient, reference)


def test_each_part_alone_has_its_own_gradient(monkeypatch):
    for rng in cases(30, "parts of log-probabilities"):
        length, vocabulary = int(rng.integers(1, 9)), int(rng.integers(2, 30))
        cut_finely(monkeypatch, int(rng.integers(1, 60)))
        head, hidden = nn.Linear(4, vocabulary).double(), leaf(rng, 1, length, 4)
        targets, learns = targets_of(rng, length, vocabulary), [hidden, *head.parameters()]
        after = AFTER[rng.choice(["nothing", "no more than 1"])]
        models = Headed(head, after), deferred(head, after)
        plain, given = (model(hidden)["logits"] for model in models)
        expected = token_statistics(plain[0], targets[0])
        for entropy, mean in ((False, False), (True, False), (False, True)):
            found = find(given, targets, entropy=entropy, mean=mean)
            assert [part is not None for part in found] == [True, entropy, mean]
            for part, reference in zip(found, expected, strict=True):
                if part is None:
                    continue
                wanted = gradients_of(reference.square().sum(), *learns)
                for a, b in zip(gradients_of(part.square().sum(), *learns), wanted, strict=True):
                    near(a, b)


def test_plain_logits_are_the_reference():
    for rng in cases(30, "log-probabilities of logits"):
        length, vocabulary = int(rng.integers(0, 9)), int(rng.integers(2, 30))
        logits, targets = (
            leaf(rng, 1, length, vocabulary, scale=3),
            targets_of(rng, length, vocabulary),
        )
        expected = token_statistics(logits[0] / 0.7, targets[0])
        found = tp.hf.token_logprobs(logits, targets, temperature=0.7, entropy=True)
        alone = tp.hf.token_logprobs(logits, targets, temperature=0.7)
        near(alone, found[0])
        value = weigh(rng, length)
        mean = found[0].new_zeros(length)
        for part, reference in zip(found, expected[:2], strict=True):
            near(part[0], reference)
        (ours,) = gradients_of(value(*found, mean), logits)
        (theirs,) = gradients_of(value(*expected[:2], mean), logits)
        near(ours, theirs)


def test_logits_far_apart_do_not_overflow(monkeypatch):
    cut_finely(monkeypatch, 4)
    for dtype, height in ((torch.float32, 1e4), (torch.float64, 1e4), (torch.bfloat16, 500.0)):
        head = nn.Linear(1, 7, bias=False, dtype=dtype)
        head.weight.data[:, 0] = torch.tensor([-1.0, 1, 0, -1, 1, 0.5, -0.25]).to(dtype) * height
        hidden = torch.ones(1, 2, 1, dtype=dtype, requires_grad=True)
        logits = deferred(head)(hidden)["logits"]
        found, entropy = tp.hf.token_logprobs(logits, torch.tensor([[1, 0]]), entropy=True)
        torch.testing.assert_close(entropy, torch.full_like(entropy, np.log(2)))
        assert found[0, 0].item() == pytest.approx(-np.log(2), rel=1e-6)
        assert found[0, 1].item() == pytest.approx(-2 * height - np.log(2), rel=1e-6)
        (found.sum() + entropy.sum()).backward()
        assert hidden.grad.isfinite().all()
        assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_the_weighted_loss_needs_no_logits(monkeypatch, smoothing):
    for rng in cases(20, f"weighted loss, smoothed by {smoothing}"):
        length, vocabulary = int(rng.integers(0, 9)), int(rng.integers(2, 30))
        cut_finely(monkeypatch, int(rng.integers(1, 60)))
        head, hidden = nn.Linear(4, vocabulary).double(), leaf(rng, 1, length, 4)
        weights = torch.from_numpy(rng.random((1, length)))
        options = {"loss_weights": weights, "targets": targets_of(rng, length, vocabulary)}
        plain, given = (
            tp.hf.weighted_loss(model(hidden)["logits"], label_smoothing=smoothing, **options)
            for model in (Headed(head), deferred(head))
        )
        near(given, plain)
        learns = [hidden, *head.parameters()]
        pairs = zip(gradients_of(given, *learns), gradients_of(plain, *learns), strict=True)
        for ours, theirs in pairs:
            near(ours, theirs)
