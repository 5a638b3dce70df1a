"""Models in the wrappers of accelerate, PEFT and Lightning: guarded as they are without.

PEFT and Lightning need not be installed: beside each is a fake that does to a model and to a batch
what it does, and the tests of the real ones run where they are.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Mapping

import pytest
import torch
import transformers
import treepack as tp
from torch import nn
from torch.utils.data import DataLoader
from treepack.errors import NotPreparedError

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 32,
}
SAYS = r"packed batch reached code that reads '(attention_mask|labels)'.*tp.hf.prepare\(model\)"


def build():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))


def batch(answers=2):
    branches = [tp.MessageTree([n, n + 1], labels=[-100, n]) for n in range(4, 4 + answers)]
    return tp.collate([tp.MessageTree([1, 2, 3], children=branches)])


def rejects(call, *arguments, **inputs):
    with pytest.raises(NotPreparedError, match=SAYS):
        call(*arguments, **inputs)


@pytest.fixture
def accelerate():
    from accelerate.state import AcceleratorState

    yield pytest.importorskip("accelerate")
    # Its state is that of the process, and other tests have trainers.
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(accelerate, precision):
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        expected = tp.hf.prepare(build())(**batch()).loss
    model = build()
    wrapped = accelerator.prepare(model)
    inputs = accelerate.utils.send_to_device(batch(), accelerator.device)
    rejects(wrapped, **inputs)
    tp.hf.prepare(model)
    loss = wrapped(**inputs).loss
    accelerator.backward(loss)
    assert torch.equal(loss, expected.float())
    assert model.lm_head.weight.grad is not None
    with tp.hf.restore(accelerator.unwrap_model(wrapped)), torch.no_grad():
        rejects(wrapped.eval(), **inputs)
    assert torch.equal(wrapped.train()(**inputs).loss, loss)


def test_hooks_of_accelerate_that_move_arguments(accelerate):
    hook = accelerate.hooks.AlignDevicesHook(execution_device="cpu", io_same_device=True)
    model = build()
    accelerate.hooks.add_hook_to_module(model, hook)
    rejects(model, **batch())
    found = tp.hf.prepare(model)(**batch())
    assert torch.equal(found.loss, tp.hf.prepare(build())(**batch()).loss)


class Adapted(nn.Module):
    """A linear layer with an adapter of rank 1 that begins at zero."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, 1, bias=False)
        self.up = nn.Linear(1, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


class Tuner(nn.Module):
    """PEFT's ``base_model``: passes everything on, whatever its name."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        for layer in model.model.layers:
            layer.self_attn.q_proj = Adapted(layer.self_attn.q_proj)

    def forward(self, *arguments, **options):
        return self.model.forward(*arguments, **options)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.model, name)


class FakePeft(nn.Module):
    """``PeftModelForCausalLM``: names some arguments, drops its own, passes the rest on."""

    special_peft_forward_args = frozenset({"adapter_names", "alora_offsets"})

    def __init__(self, model):
        super().__init__()
        self.base_model = Tuner(model)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        inputs_embeds=None,
        labels=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        task_ids=None,
        **kwargs,
    ):
        enable = contextlib.nullcontext()
        if hasattr(self.base_model, "_enable_peft_forward_hooks"):
            enable = self.base_model._enable_peft_forward_hooks(**kwargs)
        with enable:
            kwargs = {k: v for k, v in kwargs.items() if k not in self.special_peft_forward_args}
            return self.base_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                labels=labels,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=return_dict,
                **kwargs,
            )

    def get_base_model(self):
        return self.base_model.model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)


def real_peft(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


PEFTS = pytest.mark.parametrize("wrap", [FakePeft, real_peft], ids=["fake", "real"])


@PEFTS
@pytest.mark.filterwarnings("ignore")
def test_peft(wrap):
    expected = tp.hf.prepare(build())(**batch()).loss
    wrapped = wrap(build())
    rejects(wrapped, **batch())
    for prepared in (tp.hf.prepare(wrapped), wrap(tp.hf.prepare(build()))):
        loss = prepared(**batch()).loss
        loss.backward()
        # The adapter begins at zero.
        torch.testing.assert_close(loss, expected)
        trained = [name for name, p in prepared.named_parameters() if p.grad is not None]
        assert any("q_proj" in name and "base_layer" not in name for name in trained)
        with tp.hf.restore(prepared):
            rejects(prepared, **batch())
        assert torch.equal(prepared(**batch()).loss, loss)


@PEFTS
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_a_model_that_was_switched_back(wrap):
    wrapped = tp.hf.prepare(wrap(build()))
    wrapped(**batch())
    wrapped.set_attn_implementation("sdpa")
    rejects(wrapped, **batch())


class Moved:
    """Lightning moves what has a method of this name, as it finds it on the class."""

    def __new__(cls, data, device):
        if callable(getattr(type(data), "to", None)):
            return data.to(device)
        if isinstance(data, Mapping):
            return type(data)({name: cls(value, device) for name, value in data.items()})
        return data


def sizes_of(data):
    """How Lightning looks for the size of a batch when a value is logged."""
    if isinstance(data, torch.Tensor):
        yield data.size(0) if data.ndim else 1
    elif isinstance(data, Iterable) and not isinstance(data, str):
        for value in data.values() if isinstance(data, Mapping) else data:
            yield from sizes_of(value)
    else:
        yield None


class FakeLightning(nn.Module):
    """A ``LightningModule`` and the part of its trainer that touches batches."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def step(self, inputs):
        inputs = Moved(inputs, torch.device("cpu"))
        known = inspect.getfullargspec(self.training_step).args
        index = {"batch_idx": 0} if "batch_idx" in known else {}
        loss = self.training_step(inputs, **index)
        list(sizes_of(inputs))
        return loss


@pytest.mark.parametrize("answers", [1, 2])
def test_lightning_by_its_fake(answers):
    model = FakeLightning(build())
    rejects(model.step, batch(answers))
    tp.hf.prepare(model.model)
    loss = model.step(batch(answers))
    loss.backward()
    assert torch.equal(loss, tp.hf.prepare(build())(**batch(answers)).loss)
    with tp.hf.restore(model.model):
        rejects(model.step, batch(answers))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_lightning(precision, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model, self.losses = model, []

        def training_step(self, batch, batch_idx):
            loss = self.model(**batch).loss
            self.log("loss", loss, on_epoch=True)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(model):
        module = Module(model)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_steps=2,
            precision=precision,
            default_root_dir=tmp_path,
            enable_model_summary=False,
            **quiet,
        )
        tree = tp.MessageTree([1, 2], children=[tp.MessageTree([4], labels=[4])])
        data = tp.PackedDataset([tree] * 4, budgets={"tokens": 3})
        trainer.fit(module, DataLoader(data, batch_size=None))
        return module.losses

    rejects(fit, build())
    first, second = fit(tp.hf.prepare(build()))
    assert second < first
