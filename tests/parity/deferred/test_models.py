"""Models with deferred logits have the loss, gradients and logits that they have with full ones."""

from __future__ import annotations

import contextlib
import copy
import warnings

import pytest
import torch
import treepack as tp
from helpers.losses.models import (
    MEDIA_MODELS,
    TEXT_MODELS,
    build,
    differences,
    minicpm,
    prepared,
    text_batch,
)
from helpers.text_rows import distance, gradients
from treepack.errors import AttentionError
from treepack.hf.head.deferred import DeferredLogits

ERROR = 1e-12


@pytest.fixture(autouse=True)
def _no_warnings():
    """Where logits are deferred nobody is told that they are not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*prepared with logits")
        yield


@pytest.mark.parametrize("name", [*TEXT_MODELS, *MEDIA_MODELS])
def test_loss_gradients_and_logits_are_the_same(name):
    model, batch = build(name)
    plain, given = models = prepared(model)
    for options in ({}, {"num_items_in_batch": 3.0}, {"label_smoothing": 0.2}):
        loss, gradient = differences(models, batch, **options)
        assert loss < ERROR
        assert gradient < ERROR
    logits = given(**batch).logits
    assert isinstance(logits, DeferredLogits)
    expected = plain(**batch).logits
    assert logits.shape == expected.shape
    torch.testing.assert_close(logits + 0, expected, rtol=0, atol=ERROR)
    assert torch.equal(
        given.eval()(**batch).logits.argmax(-1), plain.eval()(**batch).logits.argmax(-1)
    )


@pytest.mark.parametrize("name", ["llama, tied", "gemma2, soft cap", "qwen3_vl"])
def test_logprobs_of_a_model_are_those_of_its_logits(name):
    model, batch = build(name)
    found = []
    for each in prepared(model):
        logprobs, entropy = tp.hf.token_logprobs(
            each(**batch).logits, batch["targets"], temperature=0.7, entropy=True
        )
        value = (logprobs * torch.arange(logprobs.shape[1])).sum() - entropy.square().sum()
        found.append((value.item(), gradients(each, value)))
    (expected, wanted), (value, ours) = found
    assert value == pytest.approx(expected, rel=ERROR)
    assert distance(ours, wanted) < ERROR


def test_a_row_without_targets_has_loss_zero_and_zero_gradients():
    model, _ = build("llama, tied")
    batch = tp.collate([tp.MessageTree([1, 2, 3])])
    assert not batch["targets"].numel()
    for each in prepared(model):
        loss = each(**batch).loss
        assert loss.item() == 0
        assert not any(g.any() for g in gradients(each, loss).values())


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_checkpointing_changes_nothing():
    model, batch = build("llama")
    models = prepared(model)
    for each in models:
        each.train().gradient_checkpointing_enable({"use_reentrant": False})
    assert max(differences(models, batch)) < ERROR


def test_autocast_rounds_as_much():
    model, batch = build("llama")
    exact = prepared(model.float())[0]
    loss = exact(**batch).loss
    wanted, errors = gradients(exact, loss), []
    for each in prepared(model.float()):
        with torch.autocast("cpu", torch.bfloat16):
            rounded = each(**batch).loss
        assert rounded.dtype == torch.float32
        assert abs(rounded - loss) < 0.05 * loss
        errors.append(distance(gradients(each, rounded), wanted))
    assert errors[1] < 1.5 * errors[0]


def test_a_compiled_model_has_full_logits_and_a_compiled_text_model_deferred_ones():
    model, batch = build("llama")
    plain, given = prepared(model)
    torch._dynamo.reset()
    whole = torch.compile(given, backend="aot_eager", fullgraph=True)
    expected, loss = plain(**batch).loss, whole(**batch).loss
    assert abs(loss - expected) < 1e-6
    assert distance(gradients(given, loss), gradients(plain, expected)) < 1e-6
    assert type(whole(**batch).logits) is torch.Tensor
    torch._dynamo.reset()
    given.model.compile(backend="aot_eager")
    assert isinstance(given(**batch).logits, DeferredLogits)
    assert max(differences((plain, given), batch)) < 1e-6
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["llama, tied", "molmo2"])
def test_a_restored_model_is_as_never_prepared(name):
    model, batch = build(name)
    plain, given = model.eval(), tp.hf.prepare(copy.deepcopy(model).eval(), logits="deferred")
    ids = {"input_ids": torch.tensor([[1, 5, 7, 9]])}
    with pytest.raises(AttentionError, match=r"prepared for packed batches.*tp\.hf\.restore"):
        given.generate(**ids, max_new_tokens=3, do_sample=False)
    before = given(**batch)
    with tp.hf.restore(given):
        assert type(given(**ids).logits) is torch.Tensor
        assert torch.equal(given(**ids).logits, plain(**ids).logits)
        written = [m.generate(**ids, max_new_tokens=3, do_sample=False) for m in (given, plain)]
        assert torch.equal(*written)
    after = given(**batch)
    assert isinstance(after.logits, DeferredLogits)
    assert torch.equal(before.loss, after.loss)
    tp.hf.restore(given)
    assert not our_hooks(given)


def our_hooks(model):
    """What is left on the modules of a model, by name."""
    hooks = (
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )
    left = [hook for hook in hooks if hook.__module__.startswith("treepack")]
    return left + [
        name for m in model.modules() for name in vars(m) if name == "_treepack_deferred"
    ]


def test_preparing_again_changes_how_logits_are_made():
    model, batch = build("llama")
    kinds = []
    for logits in ("deferred", "deferred", "full", "deferred"):
        tp.hf.prepare(model, logits=logits)
        kinds.append(type(model(**batch).logits))
        head = model.get_output_embeddings()
        assert len(head._forward_hooks) == (logits == "deferred")
    assert kinds == [DeferredLogits, DeferredLogits, torch.Tensor, DeferredLogits]
    tp.hf.prepare(model)
    assert type(model(**batch).logits) is torch.Tensor


def test_another_word_is_an_error_and_changes_nothing():
    model, _ = build("llama")
    with pytest.raises(AttentionError, match=r"logits='sliced'.*'full', 'deferred'"):
        tp.hf.prepare(model, logits="sliced")
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(AttentionError, match="never prepared"):
        tp.hf.restore(model)


def test_a_copy_defers_by_itself_and_is_restored_alone():
    model, batch = build("llama, tied")
    _, given = prepared(model)
    copied = copy.deepcopy(given)
    with torch.no_grad():
        copied.get_output_embeddings().weight.mul_(2.0)
    first, second = given(**batch), copied(**batch)
    assert isinstance(second.logits, DeferredLogits)
    assert not torch.allclose(first.loss, second.loss)
    tp.hf.restore(copied)
    assert isinstance(given(**batch).logits, DeferredLogits)
    assert type(copied(input_ids=batch["input_ids"]).logits) is torch.Tensor


@pytest.mark.parametrize("name", ["llama", "llama, tied"])
def test_a_saved_model_is_the_model(tmp_path, name):
    model, batch = build(name)
    _, given = prepared(model)
    assert given.state_dict().keys() == model.state_dict().keys()
    given.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    for saved, own in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(saved, own)
    again = tp.hf.prepare(again, logits="deferred")
    assert isinstance(again(**batch).logits, DeferredLogits)


class Doubled(torch.nn.Module):
    """An adapter that is put around a head when the model has been prepared already."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, hidden):
        return self.head(hidden) + self.head(hidden)


@pytest.mark.filterwarnings("default:.*prepared with logits")
def test_a_head_that_is_put_on_later_computes_all_logits_and_is_named():
    model, batch = build("llama")
    models = prepared(model)
    for each in models:
        each.set_output_embeddings(Doubled(each.get_output_embeddings()))
    with pytest.warns(UserWarning, match=r"LlamaForCausalLM.*all its logits: Doubled.*again"):
        assert max(differences(models, batch)) < ERROR
    tp.hf.prepare(models[1], logits="deferred")
    assert isinstance(models[1](**batch).logits, DeferredLogits)
    assert max(differences(models, batch)) < ERROR
    tp.hf.restore(models[1])
    assert not our_hooks(models[1])


@pytest.mark.filterwarnings("default:.*prepared with logits")
def test_a_model_that_needs_its_logits_gets_them_and_is_named():
    model, batch = build("llama")
    models = prepared(model)
    for each in models:
        head = each.get_output_embeddings()
        head.register_forward_hook(lambda _, __, y: y - y.mean(-1, keepdim=True) / 2)
    with pytest.warns(UserWarning, match="all its logits: something between its head .Linear. and"):
        assert max(differences(models, batch)) < ERROR


def test_a_model_without_logits_to_keep_keeps_hidden_states():
    """Its loss picks the logits, which are those of the whole row."""
    model, batch = minicpm(), text_batch()
    models = prepared(model)
    assert max(differences(models, batch)) < ERROR
    given = models[1]
    with no_more_positions_than(given, 1) as seen:
        given(**batch).loss.backward()
    assert seen


@contextlib.contextmanager
def no_more_positions_than(model, most):
    """The head's own forward runs on so many positions at a time."""
    head, seen = model.get_output_embeddings(), []

    def note(_, args):
        seen.append(args[0].shape[-2])
        assert args[0].shape[-2] <= most

    hook = head.register_forward_pre_hook(note)
    yield seen
    hook.remove()
