"""A batch of one family given to the model of another is named."""

import copy
import pickle

import pytest
import treepack as tp
from helpers import zoo
from helpers.tiny_models import photo
from treepack import families
from treepack.errors import BatchError

PAIRS = [
    ("molmo2", "qwen3_vl", "image_grids.*image_token_pooling.*does not take; family 'molmo2'"),
    ("qwen3_vl", "molmo2", "image_grid_thw.*Molmo2ForConditionalGeneration does not take"),
    ("smolvlm", "internvl", "pixel_attention_mask.*InternVLForConditionalGeneration"),
    ("llava_next", "gemma3", "image_sizes.*Gemma3ForConditionalGeneration"),
]
EXAMPLE = tp.Conversations([[("What?", "A cat.")]], [("image", photo(1))], key="k")


def batch_of(name):
    family = families.find(zoo.build(name)[0])
    return tp.collate([family.load(EXAMPLE)], family=family)


@pytest.mark.parametrize(("mine", "other", "message"), PAIRS)
def test_the_family_is_named(mine, other, message):
    model = tp.hf.prepare(copy.deepcopy(zoo.build(other)[1]))
    foreign, own = (batch_of(name).to("cpu", dtype=model.dtype) for name in (mine, other))
    with pytest.raises(BatchError, match=message):
        model(**foreign)
    assert model(**own).loss.isfinite()


def test_a_copy_and_a_restored_block_look_too():
    model = tp.hf.prepare(copy.deepcopy(zoo.build("gemma3")[1]))
    foreign = batch_of("llava_next").to("cpu", dtype=model.dtype)
    with tp.hf.restore(model):
        pass
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(BatchError, match="image_sizes"):
            each(**foreign)


def test_restoring_takes_the_look_away():
    model = copy.deepcopy(zoo.build("gemma3")[1])
    before = len(model._forward_pre_hooks)
    tp.hf.restore(tp.hf.prepare(tp.hf.prepare(model)))
    assert len(model._forward_pre_hooks) == before
