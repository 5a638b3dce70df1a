"""Which models `prepare` sets up, and which it rejects."""

import copy
import functools

import pytest
import torch
import transformers as hf
import treepack as tp
from helpers import tiny_models
from treepack.errors import AttentionError

TEXT = {**tiny_models.TEXT, "vocab_size": 50}
PLAIN = {name: value for name, value in TEXT.items() if name != "head_dim"}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "bos_token_id": 0}
BERT = {**PLAIN, "num_hidden_layers": 1}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 50}

SUPPORTED = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**PLAIN)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**TEXT)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT, sliding_window=None)),
    "mistral's window": lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**TEXT)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, eos_token_id=0, attn_pdrop=0.0)),
}
REJECTED = {
    "soft cap": (
        lambda: hf.Gemma2ForCausalLM(
            hf.Gemma2Config(**TEXT, layer_types=["full_attention"] * 2, sliding_window=None)
        ),
        "soft-caps",
    ),
    "chunks": (
        lambda: hf.Llama4ForCausalLM(hf.Llama4TextConfig(**TEXT, num_local_experts=2)),
        "chunked_attention",
    ),
    "dropout": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, attention_dropout=0.1)),
        "attention_dropout=0.1",
    ),
    "gpt2's dropout": (
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, eos_token_id=0)),
        "attn_pdrop=0.1",
    ),
    "no head": (lambda: hf.LlamaModel(hf.LlamaConfig(**TEXT)), "no language-model head"),
    "a head of classes": (
        lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**TEXT)),
        "no language-model head.*ForCausalLM",
    ),
    "encoder": (
        lambda: hf.BertModel(hf.BertConfig(**BERT)),
        "BertSelfAttention says is_causal=False",
    ),
    "encoder-decoder": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
        "encoder-decoder",
    ),
    "no model": (lambda: hf.LlamaConfig(**TEXT), "not a model of transformers"),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_text_model_attends_and_loses_by_treepack(name):
    model = SUPPORTED[name]()
    assert tp.hf.prepare(model) is model
    assert model.config._attn_implementation == "treepack"
    assert model.loss_function is tp.hf.weighted_loss


@pytest.mark.parametrize("name", ["molmo2", "qwen3_vl"])
def test_the_vision_tower_keeps_its_attention(name):
    model = tp.hf.prepare(getattr(tiny_models, f"{name}_model")())
    used = {
        module.is_causal: module.config._attn_implementation
        for module in model.modules()
        if hasattr(module, "is_causal")
    }
    assert used == {True: "treepack", False: "sdpa"}
    assert model.loss_function is tp.hf.weighted_loss


def test_a_backend_can_be_named():
    model = SUPPORTED["llama"]()
    tp.hf.prepare(model, backend="reference")
    assert model.config._attn_implementation == "treepack_reference"
    with pytest.raises(AttentionError, match="no attention backend 'cub'"):
        tp.hf.prepare(model, backend="cub")
    capped = REJECTED["soft cap"][0]()
    tp.hf.prepare(capped, backend="flex")
    assert capped.config._attn_implementation == "treepack_flex"


@pytest.mark.parametrize(
    ("name", "windows"), [("llama", ()), ("mistral's window", (4096,)), ("gemma3", (4096,))]
)
def test_a_model_says_its_windows(name, windows):
    model = SUPPORTED[name]()
    assert tp.hf.sliding_windows(model) == windows
    tree = tp.MessageTree([1] * 5)
    row = tp.collate([tree], sliding_windows=[2, *windows])["treepack"]
    assert row.plan_for(2).window == 2
    assert row.to("meta").plan_for(2).entries.is_meta
    dataset = tp.PackedDataset([tree], budgets={"tokens": 8}, sliding_windows=(3,))
    assert [batch["treepack"].plan_for(3).window for batch in dataset] == [3]


def test_preparing_twice_changes_nothing():
    model = tp.hf.prepare(tp.hf.prepare(tiny_models.molmo2_model()))
    assert model.config.text_config._attn_implementation == "treepack"


def test_attention_that_cannot_be_reached_is_rejected_and_left_as_it_was():
    model = SUPPORTED["llama"]()
    own = model.model.layers[1].self_attn.config = copy.deepcopy(model.config)
    before = parts(model)
    with pytest.raises(AttentionError, match=r"LlamaAttention.*does not take its attention"):
        tp.hf.prepare(model)
    assert parts(model) == before
    assert own._attn_implementation == "sdpa"
    with pytest.raises(AttentionError, match="never prepared"):
        tp.hf.restore(model)


class Wrapper:
    """What PEFT looks like."""

    def __init__(self, model):
        self.model = model

    def get_base_model(self):
        return self.model


def test_a_wrapper_is_prepared_through():
    wrapper = Wrapper(SUPPORTED["llama"]())
    assert tp.hf.prepare(wrapper) is wrapper
    assert wrapper.model.loss_function is tp.hf.weighted_loss


@pytest.mark.parametrize("name", REJECTED)
def test_a_model_that_cannot_be_exact_is_rejected_and_left_as_it_was(name):
    make, message = REJECTED[name]
    model = make()
    before = getattr(model, "loss_function", None)
    with pytest.raises(AttentionError, match=message):
        tp.hf.prepare(model)
    assert getattr(model, "loss_function", None) is before
    assert getattr(model, "config", model)._attn_implementation != "treepack"


PLACEHOLDERS = {
    "molmo2": "<|image|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
}


def text_inputs():
    return {"input_ids": torch.randint(0, 50, (1, 12), generator=torch.Generator().manual_seed(0))}


@functools.cache
def inputs_of(name):
    """A prompt as the model takes it when it generates."""
    if name not in PLACEHOLDERS:
        return text_inputs()
    processor = getattr(tiny_models, f"{name}_processor")()
    image = tiny_models.photo(1)
    made = processor(text=[f"{PLACEHOLDERS[name]}What?"], images=[image], return_tensors="pt")
    return {k: v.double() if v.is_floating_point() else v for k, v in made.items()}


RESTORED = {
    **{name: lambda n=name: tiny_models.randomised(SUPPORTED[n]()) for name in ("llama", "gemma3")},
    **{name: getattr(tiny_models, f"{name}_model") for name in PLACEHOLDERS},
}


def packed_batch():
    branches = [tp.MessageTree([n, 7, 9], labels=[n, 7, 9]) for n in (5, 6)]
    return tp.collate([tp.MessageTree([1, 2, 3], children=branches)])


def parts(model):
    """Implementation of attention of every module that has one, and the loss function."""
    configs = ((n, getattr(m, "config", None)) for n, m in model.named_modules())
    used = {name: config._attn_implementation for name, config in configs if config is not None}
    return used, model.loss_function


@pytest.mark.parametrize("name", RESTORED)
def test_a_restored_model_is_as_never_prepared(name):
    plain = RESTORED[name]().eval()
    model = tp.hf.prepare(copy.deepcopy(plain))
    inputs = inputs_of(name)
    with pytest.raises(AttentionError, match=r"prepared for packed batches.*tp\.hf\.restore"):
        model.generate(**inputs, max_new_tokens=4, do_sample=False)
    before = model(**packed_batch())
    with tp.hf.restore(model) as same:
        assert same is model
        assert parts(model) == parts(plain)
        assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
        written = [m.generate(**inputs, max_new_tokens=4, do_sample=False) for m in (model, plain)]
        assert torch.equal(*written)
    after = model(**packed_batch())
    assert torch.equal(before.loss, after.loss)
    assert torch.equal(before.logits, after.logits)

    tp.hf.restore(model)
    tp.hf.restore(model)
    assert parts(model) == parts(plain)
    assert torch.equal(tp.hf.prepare(model)(**packed_batch()).loss, before.loss)


def test_the_block_ends_as_it_began():
    model = tp.hf.prepare(SUPPORTED["llama"]())
    packed = parts(model)
    with pytest.raises(KeyError), tp.hf.restore(model):
        raise KeyError
    assert parts(model) == packed
    with tp.hf.restore(model):
        plain = parts(model)
        with tp.hf.restore(model):
            pass
        assert parts(model) == plain
    assert parts(model) == packed != plain


def test_what_was_set_by_hand_is_kept():
    model = SUPPORTED["gemma3"]()
    model.set_attn_implementation("eager")
    model.loss_function = own_loss = max
    tp.hf.prepare(tp.hf.prepare(model), backend="reference")
    tp.hf.restore(model)
    assert parts(model) == (dict.fromkeys(parts(model)[0], "eager"), own_loss)
    model.set_attn_implementation("sdpa")
    tp.hf.restore(model)
    assert set(parts(model)[0].values()) == {"sdpa"}, "restore did not set this"
    vision = tp.hf.prepare(tiny_models.qwen3_vl_model())
    vision.set_attn_implementation({"vision_config": "eager"})
    tp.hf.restore(vision)
    assert vision.config.vision_config._attn_implementation == "eager"
    assert vision.config.text_config._attn_implementation == "sdpa"


def test_a_copy_is_restored_alone():
    model = tp.hf.prepare(SUPPORTED["llama"]())
    copied = copy.deepcopy(model)
    tp.hf.restore(copied)
    assert copied.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "treepack"
    assert model.loss_function is tp.hf.weighted_loss


def test_a_wrapped_or_compiled_model_is_restored():
    torch._dynamo.reset()
    plain = tiny_models.randomised(SUPPORTED["llama"]()).eval()
    model = tp.hf.prepare(copy.deepcopy(plain))
    graph = torch.compile(model, backend="eager")
    loss = graph(**packed_batch()).loss
    for wrapped in (graph, Wrapper(model)):
        with tp.hf.restore(wrapped) as same, torch.no_grad():
            assert same is wrapped
            assert torch.equal(graph(**text_inputs()).logits, plain(**text_inputs()).logits)
        torch.testing.assert_close(graph(**packed_batch()).loss, loss)


def test_a_model_that_was_never_prepared_cannot_be_restored():
    with pytest.raises(AttentionError, match=r"LlamaForCausalLM was never prepared.*\.module"):
        tp.hf.restore(SUPPORTED["llama"]())
    with pytest.raises(AttentionError, match="never prepared"):
        tp.hf.restore(torch.nn.Linear(1, 1))


def dynamic():
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(**TEXT, max_position_embeddings=8, rope_parameters=rope)
    )


def longrope():
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 100.0}
    lengths = {"max_position_embeddings": 32, "original_max_position_embeddings": 8}
    config = {**PLAIN, "num_key_value_heads": 2, **lengths, "pad_token_id": 0}
    rope = {"rope_type": "longrope", **factors}
    return hf.Phi3ForCausalLM(hf.Phi3Config(**config, rope_parameters=rope))


@pytest.mark.parametrize("build", [dynamic, longrope])
def test_rotary_frequencies_that_depend_on_the_row_are_told(build):
    plain = tiny_models.randomised(build()).eval()
    with pytest.warns(UserWarning, match=f"rope_type='{build.__name__}'.*longer than 8") as told:
        model = tp.hf.prepare(copy.deepcopy(plain))
    assert len(told) == 1
    assert told[0].filename == __file__

    def difference(others):
        """Of a path of 6 tokens, from what it is alone."""
        trees = [tp.MessageTree([3, 1, 4, 1, 5, 9]), *(tp.MessageTree([2] * n) for n in others)]
        inputs = tp.collate(trees)
        row = model(
            **{n: inputs[n] for n in ("input_ids", "position_ids", "treepack", "use_cache")}
        )
        alone = plain(inputs["input_ids"][:, :6], use_cache=False)
        return (row.logits[:, :6] - alone.logits).abs().max()

    assert difference([7, 5]) < 1e-6
    assert difference([12]) > 1e-3
    # The same in a padded batch of transformers: the warning is about the model, not the row.
    tp.hf.restore(model)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, *[0] * 6], [2] * 12])
    padded = model(ids, attention_mask=torch.tensor([[1] * 6 + [0] * 6, [1] * 12])).logits
    assert (padded[0, :6] - plain(ids[:1, :6]).logits[0]).abs().max() > 1e-3


def test_the_face_is_loaded_on_demand():
    assert {
        "PackedTrainer",
        "molmo2_weights",
        "prepare",
        "restore",
        "register",
        "weighted_loss",
    } <= set(dir(tp.hf))
    from treepack.hf import model  # noqa: F401

    assert callable(tp.hf.prepare), "a module of that name would hide the function"
    with pytest.raises(AttributeError, match="nothing"):
        tp.hf.nothing  # noqa: B018
