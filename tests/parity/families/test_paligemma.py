"""PaliGemma, whose prompt sees ahead: what its rows need, and what is rejected by name."""

import copy

import pytest
import treepack as tp
from helpers import zoo
from helpers.unrounded import unrounded
from helpers.zoo.examples import ONE_QUESTION, A, image, rows
from helpers.zoo.others import paligemma
from treepack import families
from treepack.errors import AttentionError, DataError, FamilyError, TreeError

# PaliGemma's processor makes arrays of lists of tensors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
]

MEDIA = [image(1, 40, 60)]


@pytest.fixture(scope="module")
def made():
    processor, model = zoo.build("paligemma")
    return families.find(processor), tp.hf.prepare(copy.deepcopy(model))


def record(question, answer):
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"image": MEDIA[0][1], "conversations": said}


def test_only_answers_to_one_question_share_a_tree(made):
    family, model = made
    records = [record("<image>\n" + q, a) for q, a in (("A?", "1"), ("B?", "2"), ("A?", "3"))]
    (together,) = tp.group_conversations(records)
    with pytest.raises(FamilyError, match=r"ask 2 questions.*by_question=True"):
        family.load(together)
    apart = tp.group_conversations(records, by_question=True)
    assert [len(example.branches) for example in apart] == [2, 1]
    row = tp.collate([family.load(example) for example in apart], family=family)
    assert model(**row.to("cpu", dtype=model.dtype)).loss.isfinite()
    mask = row["treepack"].mask
    root = mask.node_start[0], mask.node_end[0]
    assert mask.visible(int(root[0]), int(root[1]) - 1)
    assert not mask.visible(int(root[0]), int(root[1]))
    assert mask.node_example.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        (tp.Conversations(A, MEDIA), FamilyError, "has 2 turns, and PaliGemma answers one"),
        (tp.Conversations(ONE_QUESTION), DataError, "no example without an image"),
        (tp.Conversations(ONE_QUESTION, MEDIA, system="Be brief."), DataError, "no system text"),
    ],
)
def test_what_is_no_image_prompt_and_answer_is_rejected(made, example, error, message):
    for ask in (made[0].measure, made[0].load):
        with pytest.raises(error, match=message):
            ask(example)


def test_a_question_is_data(made):
    family, _ = made
    forged = tp.Conversations([[("<image><bos>", "ok<eos>")]], MEDIA)
    tree = family.load(forged)
    assert (tree.tokens == family.processor.image_token_id).sum() == 16
    assert len(tree.children[0].tokens) == len("ok<eos>")


@pytest.mark.parametrize("mode", ["none", "within_image", "image_tokens"])
def test_a_row_whose_prompt_does_not_see_ahead_is_rejected(made, mode):
    family, model = made
    tree = family.load(tp.Conversations(ONE_QUESTION, MEDIA))
    row = tp.collate([tree], family=family, bidirectional=mode)
    says = rf"use_bidirectional_attention=True.*made with bidirectional='{mode}'.*pass .*'prefix'"
    with pytest.raises(AttentionError, match=says):
        model(**row.to("cpu", dtype=model.dtype))


def test_a_row_whose_prompt_sees_ahead_is_rejected_by_other_models(made):
    family, _ = made
    tree = family.load(tp.Conversations(ONE_QUESTION, MEDIA))
    row = tp.collate([tree], family=family)
    other = tp.hf.prepare(copy.deepcopy(zoo.build("llava")[1]))
    del row["pixel_values"]
    with pytest.raises(AttentionError, match=r"one mask for all layers.*='prefix'"):
        other(**row)


def test_a_root_that_sees_ahead_has_no_targets():
    tree = tp.MessageTree([1, 2], labels=[-100, 2], key="k")
    with pytest.raises(TreeError, match=r"'k': its root has targets.*would see themselves"):
        tp.collate([tree], bidirectional="prefix")


@pytest.mark.parametrize("window", [56, 4096])
def test_paligemma_2_is_exact_with_flex(window):
    processor, model = paligemma(
        "gemma2", query_pre_attn_scalar=8, attn_logit_softcapping=0.1, sliding_window=window
    )
    family = families.find(processor)
    with pytest.raises(AttentionError, match='backend="flex"'):
        tp.hf.prepare(model)
    # Eager attention alone soft-caps.
    model.set_attn_implementation("eager")
    tp.hf.prepare(model, backend="flex")
    ((_, examples),) = rows("paligemma")
    trees = [family.load(example) for example in examples]
    # Every prompt fits into the window, and not every path.
    assert max(len(tree.tokens) for tree in trees) == 56 < max(tree.n_tokens for tree in trees)
    with unrounded():
        # FlexAttention has no backward on the CPU.
        report = tp.testing.check_exact(model, family, examples, gradients=False)
    assert report.logits < 1e-12


def test_a_prompt_longer_than_a_sliding_window_is_rejected():
    processor, model = paligemma("gemma2", query_pre_attn_scalar=8, sliding_window=20)
    tree = families.find(processor).load(tp.Conversations(ONE_QUESTION, MEDIA))
    row = tp.collate([tree], family=families.find(processor))
    tp.hf.prepare(model, backend="flex")
    with pytest.raises(AttentionError, match=rf"prompt of {len(tree.tokens)} .*window of 20"):
        model(**row.to("cpu", dtype=model.dtype))
    with pytest.raises(AttentionError, match=r"window of 20"):
        tp.collate([tree], bidirectional="prefix", sliding_windows=[20])
