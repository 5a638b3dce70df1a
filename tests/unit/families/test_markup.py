"""Markup is cut out of the chat template, whatever that does; text models need nothing else."""

import copy

import pytest
import treepack as tp
from helpers.tiny_models import byte_tokenizer, photo
from helpers.zoo import build
from helpers.zoo.common import text_config
from transformers import AutoModelForCausalLM, LlamaTokenizerFast, Qwen3Config
from treepack import errors, families
from treepack.families.markup import FormatMarkup, Shape, Template

TALK = "{% for m in messages %}"
TEMPLATES = {
    "chatml": TALK + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    # Llama 3: blanks at the ends of texts are cut off, and a token begins it all.
    "trimmed": "<|begin|>"
    + TALK
    + "<|head|>{{ m.role }}<|tail|>\n\n{{ m.content | trim }}<|im_end|>{% endfor %}",
    # Mistral: the system text stands in the first question, nothing between the turns.
    "in brackets": TALK
    + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    + "{% elif m.role == 'assistant' %} {{ m.content }}<|im_end|>"
    + "{% else %}<<{{ m.content }}>>{% endif %}{% endfor %}",
    # Qwen3: the last answer, and it alone, has a block of thoughts.
    "thinking": TALK
    + "<|im_start|>{{ m.role }}\n"
    + "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}",
    # Nothing behind the last answer.
    "open end": TALK
    + "{{ m.role }}: {{ m.content }}{% if not loop.last %}|{% endif %}{% endfor %}",
}
SPECIAL = ["<|begin|>", "<|head|>", "<|tail|>"]
ONE = [("What is it?", "A cat.")]
THREE = [("  Hi ", "Ho\n"), ("And?", " So. "), ("<|im_end|>", "<|im_start|>")]


def tokenizer(name, **settings):
    made = byte_tokenizer(SPECIAL, **settings)
    made.chat_template = TEMPLATES[name]
    return made


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("name", TEMPLATES)
def test_each_conversation_is_what_the_template_writes(name, system):
    made = tokenizer(name)
    family = families.find(made)
    for turns in (ONE, THREE):
        tree = family.load(tp.Conversations([turns], system=system))
        messages = [{"role": "system", "content": system}] if system else []
        for question, answer in turns:
            messages += [{"role": "user", "content": question}]
            messages += [{"role": "assistant", "content": answer}]
        text = made.apply_chat_template(messages, tokenize=False)
        ours = made.decode([*tree.tokens, tree.end_target])
        assert text.startswith(ours) or (name == "open end" and ours == text + "<|im_end|>")


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_are_trained_each_with_the_token_behind_it(name):
    made = tokenizer(name)
    tree = families.find(made).load(tp.Conversations([[("Q", "first"), ("R", "second")]]))
    trained = made.decode(tree.labels[tree.labels >= 0])
    end = {"open end": "|", "thinking": "<|im_end|>"}.get(name, "<|im_end|>")
    assert trained == f"first{end}second"
    assert tree.end_target == made.eos_token_id


def test_the_last_answer_may_be_written_otherwise():
    family = families.find(tokenizer("thinking"))
    tree = family.load(tp.Conversations([ONE, [*ONE, *ONE]]))
    short, long = (family.tokenizer.decode(branch.tokens) for branch in tree.children)
    assert short.count("<think>") == long.count("<think>") == 1
    assert long.index("<think>") > long.index("A cat.")


def test_what_is_said_cannot_forge_markup():
    family = families.find(tokenizer("chatml"))
    tree = family.load(tp.Conversations([[("<|im_end|>", "<|im_start|>")]]))
    ends = (tree.tokens == family.tokenizer.eos_token_id).sum()
    assert ends == 1, "the end of the question, as the template writes it"


def test_text_before_an_image_cannot_forge_one():
    processor, _ = build("internvl")
    family = families.find(processor)
    media = [("image", photo(1)), ("image", photo(2))]
    plain = tp.Conversations([ONE], media, texts=["", "x"], key="k")
    forged = tp.Conversations([ONE], media, texts=["", "<IMG_CONTEXT><|im_end|>"], key="k")
    trees = [family.load(example) for example in (plain, forged)]
    assert trees[0].image_runs[:, :2].tolist()[0] == trees[1].image_runs[:, :2].tolist()[0]
    assert len(trees[0].image_runs) == len(trees[1].image_runs)
    assert family.measure(forged) == trees[1].cost
    assert "<IMG_CONTEXT><|im_end|>" in family.tokenizer.decode(trees[1].tokens)


def test_a_tokenizer_alone_adds_no_beginning():
    plain = tokenizer("chatml", bos_token="<|begin|>")
    assert plain("x")["input_ids"]
    tree = families.find(plain).load(tp.Conversations([ONE]))
    assert plain.bos_token_id not in tree.tokens


def test_without_a_template_somebody_must_say_how_turns_are_written():
    made = byte_tokenizer()
    with pytest.raises(errors.FamilyError, match=r"has no chat template; set .* or pass chat="):
        families.find(made)
    chat = families.ChatFormat(user="Q: ", assistant=" A: ")
    tree = families.find(made, chat=chat).load(tp.Conversations([ONE]))
    assert made.decode(tree.tokens) == "Q: What is it? A: A cat."
    assert tree.end_target == made.eos_token_id


def test_explicit_markup_wins_over_the_template():
    processor, _ = build("internvl")
    chat = families.ChatFormat(user="Q: ", assistant=" A: ", system="S: ", system_end="\n")
    family = families.find(processor, chat=chat)
    media = [("image", photo(1))]
    example = tp.Conversations([ONE], media, texts=["Look: "], system="Be kind.", key="k")
    tree = family.load(example)
    text = family.tokenizer.decode(tree.tokens)
    assert text.startswith("S: Be kind.\nQ: Look: <img>")
    assert family.tokenizer.decode(tree.children[0].tokens) == "What is it? A: A cat."
    assert family.measure(example) == tree.cost


def test_a_template_that_cannot_be_cut_is_rejected():
    def twice(messages):
        return "".join(m["content"] * 2 for m in messages)

    def picky(messages):
        raise ValueError("only assistants")

    shape = Shape((), (), False, 1)
    with pytest.raises(errors.FamilyError, match="not each of them once"):
        Template(twice, has_parts=False).cut(shape)
    with pytest.raises(errors.FamilyError, match=r"rejects a conversation .*: only assistants"):
        Template(picky, has_parts=False).cut(shape)
    with pytest.raises(errors.FamilyError, match="no token that stands for a medium: video"):
        FormatMarkup(families.ChatFormat("", ""), {}, "").cut(Shape(("video",), (False,), False, 1))


def test_a_text_model_is_exact_from_its_tokenizer_alone():
    made = tokenizer("thinking")
    sizes = text_config(made, without=("model_type",))
    model = AutoModelForCausalLM.from_config(Qwen3Config(**sizes)).double()
    family = families.find(made)
    assert family.name == "text"
    assert family.costs == ("tokens",)
    examples = [tp.Conversations([ONE, [*ONE, *ONE]]), tp.Conversations([THREE[:2]])]
    report = tp.testing.check_exact(model, family, examples)
    assert report.logits < 1e-6


def test_the_beginning_of_a_word_is_not_that_of_a_text():
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = {"<unk>": 0, "</s>": 1, "▁": 2, "\u241e": 3, "▁\u241e": 4}
    letters = sorted(set("xyz:"))
    vocabulary = pieces | {letter: len(pieces) + n for n, letter in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "\u241e")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.add_special_tokens(["</s>"])
    made = LlamaTokenizerFast(tokenizer_object=copy.deepcopy(backend), eos_token="</s>")
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    family = families.find(made)
    assert made.encode("x", add_special_tokens=False)[0] == 2
    tree = family.load(tp.Conversations([[("xy", "z")]]))
    assert 2 not in tree.tokens[1:], "text behind markup begins no word"
