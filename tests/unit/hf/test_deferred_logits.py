"""Deferred logits are logits to whoever looks at them, and none to who does not."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import treepack as tp
from helpers.losses.heads import Headed, Low, Stacked, deferred
from torch import nn
from torch.nn.functional import cross_entropy
from treepack.errors import AttentionError, BatchError
from treepack.hf.head import hooks
from treepack.hf.head.deferred import DeferredLogits

LENGTH, HIDDEN, VOCABULARY = 5, 4, 9
TARGETS = torch.tensor([[1, 8, -100, 0, 3]])


@pytest.fixture(params=[nn.Linear, Stacked, Low])
def pair(request):
    """The same head twice, hidden states, plain logits and deferred ones."""
    torch.manual_seed(0)
    head = request.param(HIDDEN, VOCABULARY).double()
    hidden = torch.randn(1, LENGTH, HIDDEN, dtype=torch.float64, requires_grad=True)
    other = copy.deepcopy(head)
    return (
        (head, hidden, Headed(head)(hidden)["logits"]),
        (other, hidden, deferred(other)(hidden)["logits"]),
    )


class Count:
    """Counts how many positions a head has made logits of."""

    def __init__(self, head):
        self.positions, forward = 0, head.forward

        def counted(hidden):
            self.positions += hidden.shape[:-1].numel()
            return forward(hidden)

        head.forward = counted


LOOKS = {
    "argmax": lambda y: y.argmax(-1),
    "a token": lambda y: y[..., -1],
    "one logit": lambda y: y[0, 2, 3],
    "every second token": lambda y: y[..., ::2],
    "log_softmax": lambda y: y.log_softmax(-1),
    "a sum with a tensor": lambda y: y + torch.ones(VOCABULARY, dtype=y.dtype),
    "a tensor first": lambda y: torch.mul(torch.tensor(2.0), y),
    "concatenated": lambda y: torch.cat([y, y], 1),
    "stacked": lambda y: torch.stack((y, 2 * y)),
    "transposed": lambda y: y.mT @ y,
    "reshaped": lambda y: y.reshape(-1, VOCABULARY).sum(0),
    "subtracted from a number": lambda y: 1.0 - y,
    "rounded": lambda y: torch.div(y, 2.0, rounding_mode="floor"),
    "data": lambda y: y.data,
    "numpy": lambda y: torch.from_numpy(y.detach().numpy()),
    "list": lambda y: torch.tensor(y.tolist(), dtype=torch.float64),
    "cpu": lambda y: y.cpu(),
    "to a device": lambda y: y.to("cpu"),
    "a loss": lambda y: cross_entropy(y[0], TARGETS[0], reduction="none"),
    "iterated": lambda y: torch.stack([row.max() for row in y[0]]),
}
PUT_OFF = {
    "float": lambda y: y.float().double(),
    "one cap": lambda y: 30.0 * torch.tanh(y / 30.0),
    "row of the batch": lambda y: y[0],
    "shifted": lambda y: y[:, :-1],
    "shifted, whole vocabulary": lambda y: y[..., 1:, :].contiguous(),
    "positions": lambda y: y[:, torch.tensor([3, 3, 1]), :],
    "mask": lambda y: y[torch.tensor([[True, False, True, True, False]])],
    "the last": lambda y: y[:, -1],
    "ellipsis": lambda y: y[...],
    "squeezed": lambda y: y.squeeze(0),
    "copied": lambda y: y.clone(),
    "detached": lambda y: y.detach(),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looking_computes_them(pair, name):
    (_, _, plain), (_, _, given) = pair
    look = LOOKS[name]
    found = look(given)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, look(plain), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PUT_OFF)
def test_what_can_be_put_off_is(pair, name):
    (_, _, plain), (head, _, given) = pair
    count, step = Count(head), PUT_OFF[name]
    found, expected = step(given), step(plain)
    assert isinstance(found, DeferredLogits)
    assert (found.shape, found.dtype, found.ndim, len(found), found.requires_grad) == (
        expected.shape,
        expected.dtype,
        expected.ndim,
        len(expected),
        expected.requires_grad,
    )
    assert count.positions == 0
    torch.testing.assert_close(found + torch.zeros(1), expected, rtol=0, atol=1e-12)


def test_it_answers_for_itself_without_the_logits(pair):
    (_, _, plain), (head, _, given) = pair
    count = Count(head)
    asked = (
        lambda y: (y.shape, y.size(), y.size(-1), y.dim(), y.ndim, len(y), y.numel(), y.stride()),
        lambda y: (y.dtype, y.device, y.is_floating_point(), y.is_contiguous(), y.element_size()),
        lambda y: (y.requires_grad, y.is_leaf, y.is_cuda, y.grad_fn is None),
        lambda y: (torch.is_tensor(y), isinstance(y, torch.Tensor), torch.numel(y)),
    )
    for ask in asked:
        assert ask(given) == ask(plain)
    assert count.positions == 0


def test_gradients_through_looked_at_logits_are_the_same(pair):
    found = []
    for head, hidden, logits in pair:
        loss = (logits[0, :, :3].square() * torch.arange(3)).sum() + logits[0].logsumexp(-1).sum()
        found.append(torch.autograd.grad(loss, [hidden, *head.parameters()]))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_looks_and_losses_add_up(pair):
    found = []
    for head, hidden, logits in pair:
        loss = tp.hf.token_logprobs(logits, TARGETS).sum() + logits.square().mean()
        again = tp.hf.token_logprobs(logits[:, :2], TARGETS[:, :2], temperature=0.5).sum()
        found.append(torch.autograd.grad(loss + again, [hidden, *head.parameters()]))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


CHANGES = {
    "setitem": lambda y: y.__setitem__((..., 2), -50.0),
    "mul_": lambda y: y.mul_(2.0),
    "masked_fill_": lambda y: y.masked_fill_(torch.arange(VOCABULARY) == 3, -30.0),
    "itruediv": lambda y: y.__itruediv__(3.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_logits_that_are_changed_in_place_exist_from_then_on(pair, name):
    found = []
    for head, hidden, logits in pair:
        CHANGES[name](logits)
        logprobs, entropy = tp.hf.token_logprobs(logits, TARGETS, entropy=True)
        weights = torch.ones(1, LENGTH)
        loss = tp.hf.weighted_loss(logits, targets=TARGETS, loss_weights=weights)
        value = logprobs.sum() + entropy.sum() + loss
        found.append(
            [value, logits.detach() + 0, *torch.autograd.grad(value, [hidden, *head.parameters()])]
        )
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_logits_made_without_gradients_have_none_later(pair):
    (head, hidden, _), (other, _, _) = pair
    with torch.no_grad():
        plain, given = (model(hidden)["logits"] for model in (Headed(head), Headed(other)))
    assert isinstance(given, DeferredLogits)
    for look in (lambda y: tp.hf.token_logprobs(y, TARGETS), lambda y: y + 0):
        assert not look(given).requires_grad
        torch.testing.assert_close(look(given), look(plain), rtol=0, atol=1e-12)
    detached = tp.hf.token_logprobs(pair[1][2].detach(), TARGETS)
    assert not detached.requires_grad
    with torch.inference_mode():
        given = Headed(other)(hidden.detach())["logits"]
        torch.testing.assert_close(given + 0, plain, rtol=0, atol=1e-12)


def test_a_frozen_head_passes_gradients_on(pair):
    for head, hidden, _ in pair:
        head.requires_grad_(False)
        hidden.grad = None
        tp.hf.token_logprobs(Headed(head)(hidden)["logits"], TARGETS).sum().backward()
    (head, hidden, _), (other, _, _) = pair
    first = hidden.grad.clone()
    hidden.grad = None
    tp.hf.token_logprobs(Headed(head)(hidden)["logits"], TARGETS).sum().backward()
    torch.testing.assert_close(first, hidden.grad, rtol=0, atol=1e-12)
    assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize("kind", [nn.Linear, Low])
def test_autocast_is_that_of_the_forward(kind):
    torch.manual_seed(1)
    head, hidden = kind(HIDDEN, VOCABULARY), torch.randn(1, LENGTH, HIDDEN)
    model, plain = deferred(copy.deepcopy(head)), Headed(head)
    with torch.autocast("cpu", torch.bfloat16):
        given, expected = (m(hidden)["logits"] for m in (model, plain))
    assert given.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(given + 0, expected)
    wanted = tp.hf.token_logprobs(expected, TARGETS)
    found = tp.hf.token_logprobs(given, TARGETS)
    assert found.dtype == wanted.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    for logits in (model(hidden)["logits"], given.float()):
        # A loss under autocast, of logits that were made without it, and the reverse.
        with torch.autocast("cpu", torch.bfloat16):
            inside = tp.hf.token_logprobs(logits, TARGETS)
        assert torch.equal(inside, tp.hf.token_logprobs(logits, TARGETS))
    with torch.autocast("cpu", torch.bfloat16):
        found.sum().backward()
    wanted.sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0.02, atol=0.02)


def test_a_head_that_has_changed_since_is_an_error(pair):
    _, (head, _, given) = pair
    with torch.no_grad():
        next(head.parameters()).add_(1.0)
    for look in (lambda y: y.argmax(), lambda y: tp.hf.token_logprobs(y, TARGETS)):
        with pytest.raises(AttentionError, match=f"{type(head).__name__}.*have changed since"):
            look(given)


def test_restored_models_leave_logits_that_can_be_computed(pair):
    (_, _, plain), (head, hidden, given) = pair
    hooks.undo(head)
    assert type(head(hidden)) is torch.Tensor
    torch.testing.assert_close(given + 0, plain, rtol=0, atol=1e-12)
    found = tp.hf.token_logprobs(given, TARGETS)
    torch.testing.assert_close(found, tp.hf.token_logprobs(plain, TARGETS), rtol=0, atol=1e-12)


def test_saved_logits_are_plain_ones(pair):
    (_, _, plain), (_, _, given) = pair
    file = io.BytesIO()
    torch.save(given.detach(), file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file), plain.detach(), rtol=0, atol=1e-12)
    assert type(copy.deepcopy(given.detach())) is torch.Tensor
    assert repr(given.detach() + 0) == repr(given.detach())


def test_wrong_targets_are_errors(pair):
    for _, _, logits in pair:
        with pytest.raises(BatchError, match=r"logits \[1, 5, 9\] for targets \[1, 4\]"):
            tp.hf.token_logprobs(logits, TARGETS[:, :4])
        for temperature in (0.0, -1.0, float("nan")):
            with pytest.raises(BatchError, match="temperature is"):
                tp.hf.token_logprobs(logits, TARGETS, temperature=temperature)
        for target in (VOCABULARY, -1):
            wrong = TARGETS.clone()
            wrong[0, 3] = target
            for entropy in (False, True):
                with pytest.raises(
                    BatchError, match=f"target {target} is not in the vocabulary of 9"
                ):
                    tp.hf.token_logprobs(logits, wrong, entropy=entropy)


def test_a_head_that_gives_no_logits_is_named():
    class Pair(nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden), None

    class Pooled(nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden).mean(-2)

    for kind in (Pair, Pooled):
        with pytest.raises(AttentionError, match=f'{kind.__name__} gives no logits.*logits="full"'):
            deferred(kind(HIDDEN, VOCABULARY))(torch.zeros(1, 3, HIDDEN))


def test_hooks_of_others_have_their_usual_effect_once(pair):
    (head, hidden, _), (other, _, _) = pair
    for each in (head, other):
        each.register_forward_pre_hook(lambda _, args: (2 * args[0] + 1,), prepend=True)
        each.register_forward_hook(lambda _, args, output: output / 3)
    plain, given = (Headed(each)(hidden)["logits"] for each in (head, other))
    assert isinstance(given, DeferredLogits)
    torch.testing.assert_close(given + 0, plain, rtol=0, atol=1e-12)


def test_hooks_of_others_see_the_weights_at_work(pair):
    """Between those before the head and those after it, as FSDP needs it."""
    _, (head, hidden, _) = pair
    weights = next(head.parameters())
    value = weights.data.clone()

    def gather(*_):
        weights.data.copy_(value)

    def free(*_):
        weights.data.zero_()

    free()
    head.register_forward_pre_hook(gather, prepend=True)
    head.register_forward_hook(free)
    given = Headed(head)(hidden)["logits"]
    found = tp.hf.token_logprobs(given, TARGETS)
    assert not weights.any()
    torch.testing.assert_close(found, tp.hf.token_logprobs(pair[0][2], TARGETS), rtol=0, atol=1e-12)
