"""What a family writes around media: as the chat template does, with its targets."""

import numpy as np
import pytest
import treepack as tp
from helpers.tiny_models import (
    FAMILIES,
    byte_tokenizer,
    example,
    find,
    media,
    molmo2_processor,
    photo,
    record,
)
from helpers.zoo import build
from treepack import errors, families
from treepack.families.chat_format import CHATML, PLAIN, ChatFormat, ChatWriter, suitable_format
from treepack.sources.conversations import Conversations


@FAMILIES
def test_a_conversation_is_written_as_the_chat_template_writes_it(name):
    family = find(name)
    tree = family.load(
        example(record(["<image>\nWhat is it?", "Sure?"], ["A cat.", "Yes."], image=photo(1)))
    )
    text = family.processor.tokenizer.decode(tree.children[0].tokens)
    opening = "<|im_start|>user\n" if name == "molmo2" else ""
    assert text == (
        f"{opening}What is it?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes."
    )


@FAMILIES
def test_answers_and_ends_of_turns_are_trained_on_and_nothing_else(name):
    family = find(name)
    tree = family.load(example(record(["<image>Q", "R"], ["first", "second"], image=photo(1))))
    (branch,) = tree.children
    trained = branch.labels[branch.labels >= 0]
    assert family.processor.tokenizer.decode(trained) == "first<|im_end|>second"
    assert (branch.labels == branch.tokens)[branch.labels >= 0].all()
    assert branch.end_target == family.processor.tokenizer.eos_token_id
    assert tree.labels is None


@FAMILIES
def test_a_text_is_one_node_that_begins_like_every_example(name):
    family = find(name)
    tree = family.load(example(record("Hi", "Ho", id="t")))
    start = "<|im_end|>" if name == "molmo2" else ""
    text = f"{start}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo"
    assert family.processor.tokenizer.decode(tree.tokens) == text
    assert tree.children == ()
    assert tree.key == "t"
    assert tree.cost == {"tokens": len(tree.tokens), family.costs[1]: 0}
    assert family.processor.tokenizer.decode(tree.labels[tree.labels >= 0]) == "Ho"


@FAMILIES
def test_shared_text_and_system_stand_before_the_image(name):
    family = find(name)
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Look: <image>"},
    ]
    answer = {"role": "assistant", "content": "!"}
    record = {"messages": [*turns, answer], "image": photo(1)}
    (kept,) = tp.group_conversations([record], text_before_media="keep")
    tree = family.load(kept)
    text = family.processor.tokenizer.decode(tree.tokens)
    bos = "<|im_end|>" if name == "molmo2" else ""
    start = f"{bos}<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nLook:<"
    assert text.startswith(start)
    branch = family.processor.tokenizer.decode(tree.children[0].tokens)
    assert branch.startswith("<|im_end|>\n<|im_start|>assistant")


def test_molmo2_numbers_several_images():
    family = find("molmo2")
    text = family.processor.tokenizer.decode(family.load(media(photo(1), photo(2))).tokens)
    assert text.startswith("<|im_end|>Image 1<low_res_im_start>")
    assert "<im_end>Image 2<low_res_im_start>" in text


@FAMILIES
def test_a_special_token_spelt_out_in_the_data_is_only_text(name):
    family = find(name)
    trap = "a<|im_end|>b<im_patch><|image_pad|>c"
    tree = family.load(example(record(f"<image>{trap}", trap, image=photo(1))))
    short = family.load(example(record("<image>", "x", image=photo(1))))
    encode = family.processor.tokenizer.encode
    letters = encode(trap, add_special_tokens=False, split_special_tokens=True)
    assert tree.n_tokens == short.n_tokens - len(encode("x")) + 2 * len(letters)
    assert family.processor.tokenizer.decode(tree.children[0].tokens).count(trap) == 2
    assert family.load(example(record(trap, trap))).image_runs is None


def test_the_markup_can_be_chosen():
    chat = ChatFormat(user="Q:", assistant=" A:", separator="|", media_first=True)
    family = families.find(molmo2_processor(), chat=chat)
    tree = family.load(example(record(["<image>a", "c"], ["b", "d"], image=photo(1))))
    text = family.processor.tokenizer.decode(tree.children[0].tokens)
    assert text == "Q:a A:b<|im_end|>|Q:c A:d"


def test_plain_words_where_the_tokenizer_knows_no_chatml():
    assert suitable_format(byte_tokenizer()) is CHATML
    plain = byte_tokenizer(chat=[], eos_token="<eos>")
    assert suitable_format(plain) is PLAIN
    writer = ChatWriter(plain, PLAIN)
    tokens, labels, *_ = writer.turns([("a", "b"), ("c", "d")], is_open=False)
    assert plain.decode(tokens) == "User: a\nAssistant:\nb<eos>\nUser: c\nAssistant:\nd"
    assert plain.decode([label for label in labels if label >= 0]) == "b<eos>d"


@pytest.mark.parametrize("name", ["molmo2", "internvl"])
def test_texts_at_once_are_each_as_alone(name):
    family = families.find(build(name)[0])
    said = ["A cat.", "", " ", "<|im_end|>", "Zwölf 漢字\n", "A cat.", "<IMG_CONTEXT><im_patch>"]
    options = {"add_special_tokens": False, "split_special_tokens": True}
    alone = [family.tokenizer.encode(text, **options) for text in said]
    assert family.writer.texts(said) == alone
    assert [family.writer.texts([text])[0] for text in said] == alone
    pairs = [[(question, "ok")] for question in said]
    together = family.branches(tp.Conversations(pairs, [("image", photo(1))], key="k"))
    for pair, branch in zip(pairs, together, strict=True):
        (one,) = family.load(tp.Conversations([pair], [("image", photo(1))], key="k")).children
        assert np.array_equal(branch.tokens, one.tokens)
        assert np.array_equal(branch.labels, one.labels)


def test_a_tokenizer_that_cannot_end_a_turn_is_rejected():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(errors.FamilyError, match="no EOS token"):
        ChatWriter(tokenizer, PLAIN)


def test_an_end_of_turn_must_be_one_token():
    with pytest.raises(errors.FamilyError, match="'bye' is 3"):
        families.find(molmo2_processor(), chat=ChatFormat("Q", "A", end="bye"))


# --- weights of turns

WEIGHTED = {
    "none": (
        [("Q", "ab"), ("R", "c")],
        [("ab", 1), ("<|im_end|>", 1), ("c", 1), ("<|im_end|>", 1)],
    ),
    "first 0": ([("Q", "ab", 0), ("R", "c")], [("c", 1), ("<|im_end|>", 1)]),
    "last 0": ([("Q", "ab"), ("R", "c", 0)], [("ab", 1), ("<|im_end|>", 1)]),
    "all 0": ([("Q", "ab", 0), ("R", "c", 0.0)], []),
    "two": (
        [("Q", "ab", 0.5), ("R", "c", 2)],
        [("ab", 0.5), ("<|im_end|>", 0.5), ("c", 2), ("<|im_end|>", 2)],
    ),
    "three": (
        [("Q", "ab", 0.5), ("R", "x", 0), ("S", "c", 3)],
        [("ab", 0.5), ("<|im_end|>", 0.5), ("c", 3), ("<|im_end|>", 3)],
    ),
    "no answer": (
        [("Q", "a", 0.5), ("R", "", 2)],
        [("a", 0.5), ("<|im_end|>", 0.5), ("<|im_end|>", 2)],
    ),
}


def targets(family, conversations):
    """What is trained on, letter by letter, with its loss weight."""
    batch = tp.collate([family.load(conversations)], family=family)
    decode = family.processor.tokenizer.decode
    ids, weights = batch["targets"][0].tolist(), batch["loss_weights"][0].tolist()
    return [(decode([i]), weight) for i, weight in zip(ids, weights, strict=True)]


@FAMILIES
@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("case", WEIGHTED)
def test_an_answer_and_its_end_have_the_weight_of_their_turn(name, case, with_image):
    turns, parts = WEIGHTED[case]
    shown = [("image", photo(1))] if with_image else []
    wanted = [
        (piece, weight)
        for text, weight in parts
        for piece in ([text] if text.startswith("<|") else text)
    ]
    family = find(name)
    assert targets(family, Conversations([turns], shown)) == wanted
    plain = [turn[:2] for turn in turns]
    # Siblings with another first question: those with the same one would share it.
    others = [[(f"{first}{turn[0]}", turn[1]) for turn in plain] for first in "xy"]
    siblings = Conversations([others[0], turns, others[1]], shown)
    n = len(targets(family, Conversations([others[0]], shown)))
    assert targets(family, siblings)[n:-n] == wanted, "whatever its siblings are"


@FAMILIES
def test_a_tree_without_weights_has_one_number(name):
    family = find(name)
    for shown in ([("image", photo(1))], []):
        for turns in ([("Q", "a"), ("R", "b")], [("Q", "a", 1), ("R", "b", 1.0)]):
            tree = family.load(Conversations([turns], shown))
            for node in [tree, *tree.children]:
                assert type(node.weight) is float
                assert node.weight == 1.0


@FAMILIES
def test_weights_cost_nothing(name):
    family = find(name)
    turns = [("Q", "ab", 0), ("R", "c", 0.5), ("S", "d")]
    plain = Conversations([[turn[:2] for turn in turns]], [("image", photo(1))])
    weighted = Conversations([turns], [("image", photo(1))])
    assert family.measure(weighted) == family.load(weighted).cost == family.measure(plain)
    mine, theirs = family.load(weighted).children[0], family.load(plain).children[0]
    assert mine.tokens.tolist() == theirs.tokens.tolist()
