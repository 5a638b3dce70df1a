"""Texts in tokens: the Rust tokenizer itself gives what transformers' own call gives."""

import pytest
import treepack as tp
from helpers.cases import cases
from helpers.tiny_models import byte_tokenizer
from helpers.zoo import BUILDERS, build
from transformers import LlamaTokenizerFast, PreTrainedTokenizerFast
from treepack import families
from treepack.families.chat_format import MeasuredBranch
from treepack.families.encode import count_all, encode_all

TEXTS = ["A cat.", "", " ", "<|im_end|>", "Zwölf 漢字\n", "a<|im_start|>b", "\t\n", "A cat."]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' and loop.last %}!{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
)


class Shouting(PreTrainedTokenizerFast):
    """One that does something to texts before they are tokenised."""

    def _encode_plus(self, text, *args, **options):
        text = text.upper() if isinstance(text, str) else [each.upper() for each in text]
        return super()._encode_plus(text, *args, **options)


def shouting():
    made = byte_tokenizer()
    return Shouting(tokenizer_object=made.backend_tokenizer, eos_token="<|im_end|>")


def sentencepiece():
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "▁a": 4, "a": 5, "▁cat": 6, "cat": 7}
    return LlamaTokenizerFast(vocab=vocab, merges=[])


TOKENIZERS = {"bytes": byte_tokenizer, "of the user": shouting, "sentencepiece": sentencepiece}


@pytest.mark.parametrize("is_data", [False, True])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_are_those_of_the_tokenizer(kind, is_data):
    made, other = TOKENIZERS[kind](), TOKENIZERS[kind]()
    options = {"split_special_tokens": True} if is_data else {}
    alone = [other.encode(t, add_special_tokens=False, **options) if t else [] for t in TEXTS]
    for _ in range(2):
        assert encode_all(made, TEXTS, is_data) == alone
        assert count_all(made, TEXTS, is_data) == list(map(len, alone))
        assert [count_all(made, [text], is_data) for text in TEXTS] == [[len(x)] for x in alone]
        # The other way of asking in between.
        encode_all(made, TEXTS, not is_data)


def test_settings_and_patches_of_the_user_count():
    made = byte_tokenizer(split_special_tokens=True)
    assert count_all(made, ["<|im_end|>"]) == [len("<|im_end|>")]
    made.backend_tokenizer.enable_truncation(3)
    assert count_all(made, ["A cat.", "A dog."]) == [6, 6]
    made.backend_tokenizer.enable_padding(length=9)
    assert count_all(made, ["A cat.", "A dog."]) == [6, 6]
    made.encode = lambda text, **_: [7] * (len(text) // 2)
    assert count_all(made, ["A cat."]) == [3]
    assert encode_all(made, ["A cat."]) == [[7, 7, 7]]


def text_family():
    made = byte_tokenizer()
    made.chat_template = TEMPLATE
    return families.find(made)


# Without markup an answer may begin a branch.
BARE = families.ChatFormat("", "", end="<|im_end|>", separator="")
FAMILIES = {name: lambda name=name: families.find(build(name)[0]) for name in sorted(BUILDERS)}
FAMILIES["text"] = text_family
FAMILIES["bare text"] = lambda: families.find(byte_tokenizer(), chat=BARE)
FAMILIES["bare molmo2"] = lambda: families.find(build("molmo2")[0], chat=BARE)


def say(rng, turns):
    return [
        (*rng.choice(TEXTS, 2).tolist(), float(rng.choice([0, 1, 0.5])))
        for _ in range(rng.integers(1, turns + 1))
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_branches_in_numbers_are_those_that_are_written(name):
    family = FAMILIES[name]()
    turns = 1 if name == "paligemma" else 3
    examples = [tp.Conversations([[("", "")]])]
    examples += [
        tp.Conversations([say(rng, turns) for _ in range(rng.integers(1, 4))])
        for rng in cases(20, f"branches in numbers, {name}")
    ]
    for example in examples:
        written = family.branches(example)
        assert family.measure_branches(example) == list(map(MeasuredBranch.of, written))


def test_a_family_that_writes_branches_in_its_own_way_is_measured_so():
    class Mute(families.families()["text"]):
        def branches(self, conversations):
            return [
                written._replace(tokens=[], labels=[])
                for written in super().branches(conversations)
            ]

    family = text_family()
    example = tp.Conversations([[("Hi", "Ho")]])
    assert family.measure_branches(example)[0].n_tokens > 0
    assert Mute(family.processor).measure_branches(example) == [MeasuredBranch(0, 1, False)]
