"""check_exact finds what makes a packed row wrong, and says where."""

import copy

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import tiny_models, zoo
from helpers.tiny_models import film, photo
from treepack import errors, families
from treepack.families.gemma3 import Gemma3
from treepack.families.internvl import InternVL
from treepack.families.molmo2 import POOLING, Molmo2
from treepack.families.qwen2_5_vl import Qwen25VL
from treepack.families.smolvlm import SmolVLM

PHOTOS = [("image", photo(1, 40, 60)), ("image", photo(2, 64, 30)), ("image", photo(3, 33, 50))]
ASK = [[("What is it?", "A cat.")], [("Its colour?", "Black."), ("Sure?", "Yes.")]]
TWO = [
    tp.Conversations(ASK, PHOTOS[:1], key="one"),
    tp.Conversations(ASK, PHOTOS[1:], texts=["", "and"], key="two"),
]
FILMS = [tp.Conversations(ASK, [("video", film(1, 30, 24, 32))], key="film")]


class CausalImages(Gemma3):
    bidirectional = "none"


class OneGroup(Gemma3):
    bidirectional = "image_tokens"


class CountedPositions(Qwen25VL):
    def root_positions(self, made):
        positions = super().root_positions(made)
        return np.broadcast_to(np.arange(positions.shape[1]), positions.shape)


class OtherTimes(Qwen25VL):
    tokens_per_second = 7.0


class OtherOrder(SmolVLM):
    def join(self, parts):
        return super().join(parts[::-1])


class OwnSpelling(InternVL):
    def __init__(self, processor, chat=None):
        super().__init__(processor, chat)
        write = self.writer.texts
        self.writer.texts = lambda texts: write([text.replace("cat", "dog") for text in texts])


class NoOffset(Molmo2):
    def join(self, parts):
        joined = super().join(parts)
        width = joined[POOLING].shape[1]
        joined[POOLING] = np.concatenate(
            [np.pad(p[POOLING], [(0, 0), (0, width - p[POOLING].shape[1])]) for p in parts]
        )
        return joined


class UnseenImages(families.families()["gemma4"]):
    def _runs(self, tokens):
        return super()._runs(tokens)[:0]


TRAPS = {
    "unmarked images": (UnseenImages, "gemma4_vision", TWO, "one.*layers.0 .*sliding_attention"),
    "causal images": (CausalImages, "gemma3", TWO, "one.*layers.0 .*sliding_attention"),
    "one group for all images": (OneGroup, "gemma3", TWO, "two.*layers.0 .*sliding_attention"),
    "positions on one axis": (CountedPositions, "qwen2_5_vl", TWO, "example '(one|two)', branch"),
    "times of a film": (OtherTimes, "qwen2_5_vl", FILMS, "film.*Qwen2_5_VLAttention"),
    "images of another example": (OtherOrder, "smolvlm", TWO, "example '(one|two)', branch"),
    "other tokens": (OwnSpelling, "internvl", TWO, "'one', branch 0: token .* is 67, and .*66"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_named(trap):
    family, name, examples, message = TRAPS[trap]
    processor, model = zoo.build(name)
    with pytest.raises(AssertionError, match=message):
        tp.testing.check_exact(model, family(processor), examples, gradients=False)
    tp.testing.check_exact(model, families.find(processor), examples, gradients=False)


def test_indices_that_begin_anew_are_named():
    model = tiny_models.molmo2_model()
    family = NoOffset(tiny_models.molmo2_processor())
    with pytest.raises(AssertionError, match="example 'two', branch"):
        tp.testing.check_exact(model, family, TWO, gradients=False)


def test_a_wrong_gradient_is_found_where_logits_agree():
    processor, model = zoo.build("llava")
    model = copy.deepcopy(model)

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            return x.clone()

        @staticmethod
        def backward(_, grad):
            return 2 * grad

    forward = model.lm_head.forward

    def doubled_if_packed(x):
        return Doubled.apply(forward(x)) if tp.hf.model.is_packed(model) else forward(x)

    model.lm_head.forward = doubled_if_packed
    family = families.find(processor)
    with pytest.raises(AssertionError, match="the logits agree, and gradients differ by"):
        tp.testing.check_exact(model, family, TWO)
    assert tp.testing.check_exact(model, family, TWO, gradients=False).gradients is None


@pytest.mark.parametrize("is_packed", [True, False])
def test_the_model_is_left_as_it_was(is_packed):
    processor, model = zoo.build("llava")
    model = copy.deepcopy(model).eval()
    if is_packed:
        tp.hf.prepare(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tp.testing.check_exact(model, families.find(processor), TWO)
    assert tp.hf.model.is_packed(model) == is_packed
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_dropout_is_switched_off_for_the_comparison():
    processor, model = zoo.build("internvl")
    model = copy.deepcopy(model).train()
    model.model.multi_modal_projector.register_forward_hook(
        lambda module, _, out: torch.nn.functional.dropout(out, 0.5, module.drop.training)
    )
    model.model.multi_modal_projector.drop = torch.nn.Dropout(0.5)
    tp.testing.check_exact(model, families.find(processor), TWO)
    assert model.model.multi_modal_projector.drop.training


def test_in_bfloat16_the_error_is_held_against_that_of_a_plain_implementation():
    processor, model = zoo.build("internvl")
    low = copy.deepcopy(model).to(torch.bfloat16)
    report = tp.testing.check_exact(low, families.find(processor), TWO)
    assert 0 < report.logits <= 4 * report.plain
    assert report.plain > 1e-4


def test_records_are_taken_and_anything_else_is_named():
    processor, model = zoo.build("internvl")
    record = tiny_models.record("<image>\nWhat?", "A cat.", image=photo(1), id="r")
    report = tp.testing.check_exact(model, families.find(processor), [record])
    assert [name for name, _ in report.paths] == ["example 'r', branch 0"]
    with pytest.raises(errors.TreepackError, match="example 0 is a str"):
        tp.testing.check_exact(model, families.find(processor), ["cat.jpg"])
