"""A family that is learnt from processor and model is exact, and equals the declared one."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import zoo
from helpers.cases import FACTOR
from helpers.tiny_models import film
from helpers.zoo.examples import TEXT, A, image, pair, rows
from helpers.zoo.patches import QWEN_TEMPLATE
from treepack import errors, families

# The processors of GLM and Kimi make arrays of tensors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

# PaliGemma answers one prompt, and has no chat template to learn from.
LEARNABLE = sorted(zoo.BUILDERS.keys() - {"paligemma"})
if FACTOR < 2:
    # Several seconds each; the first one learns one axis of four, of images and of films.
    for slow in ("minicpm_v", "kimi_k25", "gemma4_unified"):
        LEARNABLE.remove(slow)
LEARNT = {}
ONE_AT_A_TIME = {"perception_lm"}
"""Families whose processor does not take several images of any size."""

APART = {"glm4v", "glm46v"}
"""Models that do not take images and videos in one row; the declared family recasts them."""


def learn(name):
    if name not in LEARNT:
        processor, model = zoo.build(name)
        if name in ("qwen3_vl", "qwen3_5"):
            # The processor itself is shared with other tests.
            processor = copy.copy(processor)
            processor.chat_template = QWEN_TEMPLATE
        chat = None
        if processor.chat_template is None:
            user, assistant = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
            chat = families.ChatFormat(user, assistant, end="<|im_end|>")
        LEARNT[name] = families.learn(processor, model, chat)
    return LEARNT[name], *zoo.build(name)


@pytest.mark.parametrize("name", LEARNABLE)
def test_it_is_exact_on_examples_that_it_has_not_seen(name):
    family, _, model = learn(name)
    found = dict(rows(name))
    for kind in ("images", "videos", "mixed"):
        if kind not in found or (kind != "images" and name == "molmo2"):
            continue
        examples = [e for e in found[kind] if len(e.media) < 2 or name not in ONE_AT_A_TIME]
        if kind == "mixed" and name in APART:
            with pytest.raises(errors.FamilyError, match="images and videos"):
                tp.testing.check_exact(model, family, examples)
            continue
        report = tp.testing.check_exact(model, family, examples, gradients=False)
        assert report.logits < 1e-6


@pytest.mark.parametrize("name", LEARNABLE)
def test_it_makes_the_trees_and_rows_of_the_declared_family(name):
    family, _, _ = learn(name)
    declared = families.find(family.processor, chat=family.chat)
    examples = tp.Conversations(A, [image(1, 40, 60)], key="k"), TEXT
    for example in examples:
        mine, theirs = family.load(example), declared.load(example)
        assert mine.tokens.tolist() == theirs.tokens.tolist()
        assert mine.n_tokens == theirs.n_tokens == family.measure(example)["tokens"]
        assert [c.labels.tolist() for c in mine.children] == [
            c.labels.tolist() for c in theirs.children
        ]
        for array in (theirs.media or {}).keys() & (mine.media or {}).keys():
            assert np.array_equal(mine.media[array], theirs.media[array])
    rows = [tp.collate([*map(each.load, examples)], family=each) for each in (family, declared)]
    names = {name for name in rows[1] if isinstance(rows[1][name], torch.Tensor)}
    assert {"input_ids", "position_ids", "targets"} < names
    for array in names & rows[0].keys():
        # Qwen3-VL also takes places in the row, before those on three axes; the model needs none.
        mine, theirs = (row[array][-3:] if array == "position_ids" else row[array] for row in rows)
        assert torch.equal(mine, theirs), array


@pytest.mark.parametrize("name", ["internvl", "glm4v", "molmo2"])
def test_it_can_be_saved_and_sent_and_needs_no_model(name):
    family, processor, _ = learn(name)
    text = json.dumps(family.to_dict())
    saved = families.LearnedFamily.from_dict(processor, json.loads(text), family.chat)
    example = tp.Conversations(A, [image(1, 40, 60)], key="k")
    for other in (saved, pickle.loads(pickle.dumps(family))):
        trees = [each.load(example) for each in (family, other)]
        rows = [
            each.collate([tree], 900) for each, tree in zip((family, other), trees, strict=True)
        ]
        assert rows[0].keys() == rows[1].keys()
        assert all(np.array_equal(rows[0][key], rows[1][key]) for key in rows[0])
        if name == "glm4v":
            assert np.array_equal(trees[0].root_positions, trees[1].root_positions)


def test_what_is_not_exact_is_no_family():
    processor, _ = zoo.build("internvl")
    _, model = zoo.build("gemma3")
    with pytest.raises(errors.FamilyError, match=r"Gemma3.* cannot be packed exactly with"):
        families.learn(processor, model)


def test_a_model_that_cannot_be_prepared_is_rejected_before_its_processor_is_asked():
    from helpers.text_rows import stock_model

    model = stock_model("qwen3")
    model.set_output_embeddings(None)
    with pytest.raises(errors.AttentionError, match="head"):
        families.learn(object(), model)


def test_what_was_not_proved_is_rejected():
    family, _, _ = learn("perception_lm")
    with pytest.raises(errors.DataError, match="'pair' has 2 media of the kind 'image'"):
        family.measure(pair("perception_lm"))
    family, _, _ = learn("gemma3")
    films = tp.Conversations(A, [("video", film(1))], key="film")
    with pytest.raises(errors.TreepackError, match="film"):
        family.measure(films)


def test_a_text_model_is_learnt_from_its_tokenizer():
    from helpers.text_rows import stock_model
    from helpers.tiny_models import byte_tokenizer

    made = byte_tokenizer()
    made.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    model = stock_model("llama")
    if model.config.vocab_size < len(made):
        model.resize_token_embeddings(len(made))
    family = families.learn(made, model)
    assert family.measure(TEXT) == {"tokens": family.load(TEXT).n_tokens}


@pytest.mark.parametrize("saved", [{}, {"version": 0}, None])
def test_anything_else_is_no_saved_family(saved):
    processor, _ = zoo.build("internvl")
    with pytest.raises(errors.FamilyError, match="no learnt family of version 1"):
        families.LearnedFamily.from_dict(processor, saved)


def test_a_saved_family_is_for_one_kind_of_processor():
    family, _, _ = learn("internvl")
    processor, _ = zoo.build("gemma3")
    with pytest.raises(errors.FamilyError, match="learnt from a InternVLProcessor"):
        families.LearnedFamily.from_dict(processor, family.to_dict())
