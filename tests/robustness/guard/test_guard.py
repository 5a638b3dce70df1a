"""A packed batch never trains on a wrong mask: a model that is not prepared is an error at once."""

from __future__ import annotations

import copy
import operator
import pickle

import pytest
import torch
import transformers
import treepack as tp
from helpers import tiny_models
from torch.nn.functional import cross_entropy, pad
from treepack.batch import StandIn
from treepack.errors import BatchError, NotPreparedError

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 32,
}
KINDS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
}
SAYS = r"packed batch reached code that reads '(attention_mask|labels)'.*tp.hf.prepare\(model\)"


def build(name="llama", **options):
    config, model = KINDS[name]
    torch.manual_seed(0)
    return model._from_config(config(**SIZES, **options))


def batch(**options):
    branches = [tp.MessageTree([n, n + 1], labels=[n, n + 1]) for n in (4, 6)]
    return tp.collate([tp.MessageTree([1, 2, 3], children=branches)], **options)


def rejects(call, **inputs):
    with pytest.raises(NotPreparedError, match=SAYS):
        call(**inputs)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
@pytest.mark.parametrize("name", KINDS)
def test_a_model_that_was_never_prepared(name, attention):
    model = build(name)
    model.set_attn_implementation(attention)
    rejects(model, **batch())
    with torch.no_grad():
        rejects(model.eval(), **batch())
    # Hidden states alone, as a loss of one's own would take them.
    names = ("input_ids", "position_ids", "attention_mask")
    rejects(model.model, **{name: batch()[name] for name in names})


def test_a_model_that_was_switched_back_or_restored():
    model = tp.hf.prepare(build())
    model(**batch()).loss.backward()
    with tp.hf.restore(model):
        rejects(model, **batch())
    model(**batch()).loss.backward()
    model.set_attn_implementation("sdpa")
    rejects(model, **batch())
    with torch.no_grad():
        rejects(model.eval(), **batch())
    tp.hf.prepare(model.train())(**batch()).loss.backward()
    tp.hf.restore(model)
    rejects(model, **batch())


def test_a_model_that_was_saved_and_loaded(tmp_path):
    model = tp.hf.prepare(build())
    model.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    rejects(loaded, **batch())
    # The name of the attention alone is half of it: the loss is the stock one.
    named = transformers.LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="treepack")
    rejects(named, **batch())
    expected = model(**batch()).loss
    assert torch.equal(tp.hf.prepare(loaded)(**batch()).loss, expected)


@pytest.mark.parametrize("name", ["molmo2", "qwen3_vl"])
def test_vision_language_models(name):
    if not hasattr(transformers, "Molmo2Processor") and name == "molmo2":
        pytest.skip("this transformers has no Molmo2")
    model = getattr(tiny_models, f"{name}_model")()
    processor = getattr(tiny_models, f"{name}_processor")()
    family = tp.families.find(processor)
    picture = tiny_models.record("<image>\nWhat?", "A cat.", image=tiny_models.photo(1, 40, 60))
    tree = family.load(tp.group_conversations([picture])[0])
    inputs = tp.collate([tree], family=family)
    inputs = inputs.to(torch.float64)
    rejects(model, **inputs)
    tp.hf.prepare(model)(**inputs).loss.backward()
    with tp.hf.restore(model):
        rejects(model, **inputs)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model():
    torch._dynamo.reset()
    rejects(torch.compile(build(), backend="eager"), **batch())
    torch._dynamo.reset()
    whole = torch.compile(build(), backend="eager", fullgraph=True)
    # One graph cannot raise, so the compiler does: with the same words.
    with pytest.raises(torch._dynamo.exc.Unsupported, match=SAYS):
        whole(**batch())


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_that_is_switched_back():
    torch._dynamo.reset()
    model = tp.hf.prepare(build())
    compiled = torch.compile(model, backend="eager")
    expected = model(**batch()).loss
    assert torch.equal(compiled(**batch()).loss, expected)
    with tp.hf.restore(compiled):
        rejects(compiled, **batch())
    assert torch.equal(compiled(**batch()).loss, expected)
    model.set_attn_implementation("sdpa")
    rejects(compiled, **batch())


def test_a_stock_trainer_and_its_losses(tmp_path):
    args = transformers.TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to=[], remove_unused_columns=False
    )
    trainer = transformers.Trainer(build(), args, data_collator=lambda rows: rows[0])
    with pytest.raises(BatchError, match=SAYS):
        trainer.compute_loss(trainer.model, batch())
    # Counting labels must not pass for "cannot be counted".
    with pytest.raises(BatchError, match=SAYS):
        trainer.get_batch_samples(iter([batch()]), 1, torch.device("cpu"))
    args.label_smoothing_factor = 0.1
    smooth = transformers.Trainer(build(), args, data_collator=lambda rows: rows[0])
    with pytest.raises(BatchError, match=SAYS):
        smooth.compute_loss(smooth.model, batch())


LABELS = StandIn("labels")


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x.shape,
        lambda x: x.float(),
        lambda x: x[..., 1:],
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: -x,
        lambda x: x != -100,
        lambda x: x > 0,
        lambda x: bool(x),
        lambda x: len(x),
        lambda x: list(x),
        lambda x: 3 in x,
        lambda x: int(x),
        lambda x: operator.index(x),
        lambda x: torch.ones(2) * x,
        lambda x: torch.as_tensor(x),
        lambda x: pad(x, (0, 1), value=-100),
        lambda x: cross_entropy(torch.zeros(1, 2), x),
        lambda x: torch.where(x, 0.0, 1.0),
        lambda x: x.sum(),
    ],
)
def test_whatever_is_done_with_a_stand_in_is_an_error(use):
    with pytest.raises((BatchError, TypeError)) as caught:
        use(LABELS)
    assert isinstance(caught.value, BatchError), caught.value


def test_a_stand_in_travels_as_it_is():
    inputs = batch()
    for other in (copy.copy(inputs), copy.deepcopy(inputs), pickle.loads(pickle.dumps(inputs))):
        for name in ("labels", "attention_mask"):
            assert isinstance(other[name], StandIn)
            assert other[name] == inputs[name] != StandIn("other")
    assert not hasattr(LABELS, "shape")
    assert LABELS.ndim == 4
    assert inputs.to("meta")["labels"] == LABELS
    assert inputs.pin_memory is not None
    assert hash(LABELS) == hash(StandIn("labels"))
    assert repr(LABELS) == "StandIn('labels')"
