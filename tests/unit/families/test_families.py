"""What a family makes of conversations: tokens as its processor writes them, costs, arrays."""

import copy
import pickle

import numpy as np
import pytest
import torch
import transformers
import treepack as tp
from helpers import cases, tiny_models
from helpers.tiny_models import (
    byte_tokenizer,
    film,
    molmo2_processor,
    photo,
    qwen3_vl_processor,
    row,
)
from treepack import errors, families
from treepack.families.chat_format import CHATML, PLAIN, ChatFormat, ChatWriter, suitable_format
from treepack.families.qwen3_vl import rope_positions
from treepack.sources.conversations import Conversations

PROCESSORS = {"molmo2": molmo2_processor, "qwen3_vl": qwen3_vl_processor}
FAMILIES = pytest.mark.parametrize("name", PROCESSORS)
PLACEHOLDERS = {
    "molmo2": {"image": "<|image|>", "video": "<|video|>"},
    "qwen3_vl": {
        "image": "<|vision_start|><|image_pad|><|vision_end|>",
        "video": "<|vision_start|><|video_pad|><|vision_end|>",
    },
}


def find(name):
    return families.find(PROCESSORS[name]())


def example(*rows):
    (found,) = tp.group_conversations(rows)
    return found


def media(*values, text="?"):
    """An example that shows images (3 axes) and videos (4 axes) in order."""
    kinds = ["video" if value.ndim == 4 else "image" for value in values]
    return Conversations([[(text, "!")]], list(zip(kinds, values, strict=True)), key="k")


def random_media(rng, most=3):
    def one():
        height, width = (int(n) for n in rng.integers(8, 120, 2))
        if rng.random() < 0.3:
            return film(int(rng.integers(100)), int(rng.integers(2, 9)), height, width)
        return photo(int(rng.integers(100)), height, width)

    return [one() for _ in range(rng.integers(1, most + 1))]


# --- the registry


@FAMILIES
def test_a_family_is_found_by_the_class_of_the_processor_or_by_name(name):
    processor = PROCESSORS[name]()
    assert families.find(processor).name == name
    assert families.find(processor, family=name).name == name

    class Own(type(processor)):
        pass

    own = copy.copy(processor)
    own.__class__ = Own
    assert families.find(own).name == name


def test_an_unknown_processor_is_told_who_is_served():
    with pytest.raises(errors.FamilyError, match=r"SimpleNamespace.*molmo2.*qwen3_vl"):
        families.find(__import__("types").SimpleNamespace())
    with pytest.raises(errors.FamilyError, match=r"'gemma9'; there are \['molmo2', 'qwen3_vl'\]"):
        families.find(molmo2_processor(), family="gemma9")
    with pytest.raises(errors.FamilyError, match=r"ChatFormat, got str"):
        families.find(molmo2_processor(), chat="chatml")


def test_a_new_family_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "new.py").write_text(
        "from treepack.families.molmo2 import Molmo2\n"
        "class New(Molmo2):\n"
        "    name, processors = 'new', ('NewProcessor',)\n"
        "FAMILY = New\n"
    )
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    processor = copy.copy(molmo2_processor())
    processor.__class__ = type("NewProcessor", (type(processor),), {})
    assert families.find(processor, family="new").name == "new"
    assert sorted(families.families()) == ["molmo2", "new", "qwen3_vl"]


def test_a_tokenizer_without_the_image_tokens_is_rejected():
    processor = copy.copy(molmo2_processor())
    processor.tokenizer = byte_tokenizer()
    with pytest.raises(errors.FamilyError, match="'<im_patch>'"):
        families.find(processor)


@FAMILIES
def test_a_family_can_be_sent_to_a_worker(name):
    family = find(name)
    copied = pickle.loads(pickle.dumps(family))
    sample = media(photo(1))
    assert copied.load(sample).tokens.tolist() == family.load(sample).tokens.tolist()


# --- what the model sees


@FAMILIES
def test_the_root_is_what_the_processor_writes(name):
    family = find(name)
    opening = "" if name == "molmo2" else "<|im_start|>user\n"
    for rng in cases.cases(30, "the root is what the processor writes"):
        values = random_media(rng, most=1)
        kind = "video" if values[0].ndim == 4 else "image"
        text = opening + PLACEHOLDERS[name][kind]
        made = family.processor(text=text, **{f"{kind}s": values})
        assert family.load(media(*values)).tokens.tolist() == made["input_ids"][0]


@pytest.mark.parametrize("columns", [None, True, False])
@pytest.mark.parametrize("start", [True, False])
def test_the_settings_of_molmo2s_processor_count(columns, start):
    processor = molmo2_processor(
        use_single_crop_col_tokens=columns,
        use_single_crop_start_token=start,
        video_use_col_tokens=bool(columns),
        use_frame_special_tokens=start,
    )
    family = families.find(processor)
    for kind, value in (("image", photo(1)), ("video", film(1))):
        made = processor(text=PLACEHOLDERS["molmo2"][kind], **{f"{kind}s": [value]})
        assert family.load(media(value)).tokens.tolist() == made["input_ids"][0]


@FAMILIES
def test_a_conversation_is_written_as_the_chat_template_writes_it(name):
    family = find(name)
    tree = family.load(
        example(row(["<image>\nWhat is it?", "Sure?"], ["A cat.", "Yes."], image=photo(1)))
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
    tree = family.load(example(row(["<image>Q", "R"], ["first", "second"], image=photo(1))))
    (branch,) = tree.children
    trained = branch.labels[branch.labels >= 0]
    assert family.processor.tokenizer.decode(trained) == "first<|im_end|>second"
    assert (branch.labels == branch.tokens)[branch.labels >= 0].all()
    assert branch.end_target == family.processor.tokenizer.eos_token_id
    assert tree.labels is None


@FAMILIES
def test_a_text_is_one_node_that_begins_like_every_example(name):
    family = find(name)
    tree = family.load(example(row("Hi", "Ho", id="t")))
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
    tree = family.load(example(row(f"<image>{trap}", trap, image=photo(1))))
    empty = family.load(example(row("<image>", "", image=photo(1))))
    encode = family.processor.tokenizer.encode
    letters = encode(trap, add_special_tokens=False, split_special_tokens=True)
    assert tree.n_tokens == empty.n_tokens + 2 * len(letters)
    assert family.processor.tokenizer.decode(tree.children[0].tokens).count(trap) == 2
    assert family.load(example(row(trap, trap))).image_runs is None


def test_the_markup_can_be_chosen():
    chat = ChatFormat(user="Q:", assistant=" A:", separator="|", media_first=True)
    family = families.find(molmo2_processor(), chat=chat)
    tree = family.load(example(row(["<image>a", "c"], ["b", "d"], image=photo(1))))
    text = family.processor.tokenizer.decode(tree.children[0].tokens)
    assert text == "Q:a A:b<|im_end|>|Q:c A:d"


def test_plain_words_where_the_tokenizer_knows_no_chatml():
    assert suitable_format(byte_tokenizer()) is CHATML
    plain = byte_tokenizer(chat=[], eos_token="<eos>")
    assert suitable_format(plain) is PLAIN
    writer = ChatWriter(plain, PLAIN)
    tokens, labels = writer.turns([("a", "b"), ("c", "d")], is_open=False)
    assert plain.decode(tokens) == "User: a\nAssistant:\nb<eos>\nUser: c\nAssistant:\nd"
    assert plain.decode([label for label in labels if label >= 0]) == "b<eos>d"


def test_a_tokenizer_that_cannot_end_a_turn_is_rejected():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(errors.FamilyError, match="no EOS token"):
        ChatWriter(tokenizer, PLAIN)


def test_an_end_of_turn_must_be_one_token():
    with pytest.raises(errors.FamilyError, match="'bye' is 3"):
        families.find(molmo2_processor(), chat=ChatFormat("Q", "A", end="bye"))


# --- costs


@FAMILIES
def test_what_is_measured_is_what_is_loaded(name):
    family = find(name)
    for rng in cases.cases(60, f"measured is loaded, {name}"):
        sample = media(*random_media(rng))
        cost = family.measure(sample)
        assert tuple(cost) == family.costs
        assert family.load(sample).cost == cost


@pytest.mark.parametrize(
    ("size", "crops", "tokens"), [((378, 378), 2, 410), ((1080, 1920), 9, 1189)]
)
def test_the_published_counts_of_molmo2(size, crops, tokens):
    full = transformers.Molmo2Processor(
        image_processor=transformers.Molmo2ImageProcessor(),
        video_processor=transformers.Molmo2VideoProcessor(),
        tokenizer=molmo2_processor().tokenizer,
        use_single_crop_col_tokens=False,
    )
    visual = families.find(full).measure_image(*size)
    assert (visual.cost, len(visual.tokens)) == (crops, tokens)


@FAMILIES
def test_measuring_decodes_no_pixel(name, tmp_path):
    import PIL.Image

    family = find(name)
    path = tmp_path / "cut.png"
    PIL.Image.fromarray(photo(1, 60, 80)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    sample = example(row("<image>?", "!", image=str(path)))
    whole = example(row("<image>?", "!", image=photo(1, 60, 80)))
    assert family.measure(sample) == family.measure(whole)
    with pytest.raises(errors.DataError, match=r"cut.png"):
        family.load(sample)


def test_a_setting_that_is_not_measured_is_found_out():
    processor = copy.deepcopy(qwen3_vl_processor())
    processor.image_processor.do_resize = False
    family = families.find(processor)
    with pytest.raises(errors.DataError, match=r"example 'k': image was measured with .* patches"):
        family.load(media(photo(1, 96, 96)))


# --- arrays


@FAMILIES
def test_image_runs_are_the_tokens_that_the_processor_marks(name):
    family = find(name)
    for rng in cases.cases(20, f"image runs, {name}"):
        tree = family.load(media(*random_media(rng)))
        (types,) = family.processor.create_mm_token_type_ids([tree.tokens.tolist()])
        marked = np.zeros(len(tree.tokens), bool)
        for start, end, _ in tree.image_runs:
            assert not marked[start:end].any()
            marked[start:end] = True
        assert marked.tolist() == (np.array(types) > 0).tolist()
        assert tree.image_runs[:, 2].tolist() == list(range(len(tree.image_runs)))


def test_molmo2_rows_count_patches_through_and_mark_image_tokens():
    family = find("molmo2")
    trees = [family.load(media(*values)) for values in ([photo(1)], [film(2), photo(3)])]
    text = family.load(example(row("Hi", "Ho")))
    total = sum(tree.n_tokens for tree in (*trees, text)) + 5
    arrays = family.collate([trees[0], text, trees[1]], total)
    pooling = arrays["image_token_pooling"]
    crops = len(arrays["pixel_values"])
    assert crops == sum(tree.costs["crops"] for tree in trees)
    used = np.unique(pooling[pooling >= 0])
    assert used[-1] < crops * 16
    assert len(np.unique(used // 16)) == crops, "every crop is looked at"
    assert pooling.shape[1] == 9
    ids = np.concatenate([t.tokens for tree in (trees[0], text, trees[1]) for t, _ in tree.nodes()])
    (types,) = family.processor.create_mm_token_type_ids([ids.tolist()])
    assert arrays["mm_token_type_ids"][0, : len(ids)].tolist() == types
    assert not arrays["mm_token_type_ids"][0, len(ids) :].any()
    assert (pooling >= 0).any(1).sum() == (ids == family.patch).sum()


@FAMILIES
def test_a_row_of_texts_has_no_pixels(name):
    family = find(name)
    text = family.load(example(row("Hi", "Ho")))
    assert [key for key in family.collate([text], 50) if "pixel" in key or "grid" in key] == []


@FAMILIES
def test_collating_does_not_modify_the_trees(name):
    family = find(name)
    tree = family.load(media(photo(1), film(2)))
    before = {key: value.copy() for key, value in tree.media.items()}
    family.collate([tree, tree], 2 * tree.n_tokens)
    assert all(np.array_equal(tree.media[key], value) for key, value in before.items())


def test_trees_made_by_hand_that_the_model_would_misread_are_rejected():
    tree = find("qwen3_vl").load(media(photo(1)))
    tree.root_positions = None
    with pytest.raises(errors.FamilyError, match="example 'k' has images and no root_positions"):
        find("qwen3_vl").collate([tree], tree.n_tokens)
    with pytest.raises(errors.FamilyError, match=r"lack \['image_token_pooling'"):
        find("molmo2").collate([tp.MessageTree([1], media={"pixel_values": np.zeros(1)})], 1)


# --- positions


def test_rope_positions_are_those_of_the_model():
    family = find("qwen3_vl")
    model = tiny_models.qwen3_vl_model().model
    for rng in cases.cases(40, "rope positions"):
        tree = family.load(media(*random_media(rng)))
        (types,) = family.processor.create_mm_token_type_ids([tree.tokens.tolist()])
        grids = {k: torch.from_numpy(v) for k, v in tree.media.items() if "grid" in k}
        ids = torch.from_numpy(tree.tokens)[None]
        right, _ = model.get_rope_index(ids, torch.tensor([types]), **grids)
        assert tree.root_positions.tolist() == right[:, 0].tolist()
        assert len(set(tree.root_positions[:, -1].tolist())) == 1, "a root ends in text"


def test_rope_positions_of_a_text_count_on():
    assert rope_positions(3, np.empty((0, 2), int), []).tolist() == [[0, 1, 2]] * 3


def test_qwen_takes_the_place_in_the_row_and_three_axes():
    family = find("qwen3_vl")
    three = np.arange(12).reshape(3, 4)
    for given, rope in ((three, three), (three[:1], three[[0, 0, 0]])):
        rows = family.position_ids(given)
        assert rows.shape == (4, 1, 4)
        assert rows[0, 0].tolist() == [0, 1, 2, 3]
        assert rows[1:, 0].tolist() == rope.tolist()


def test_conversations_are_what_a_family_takes():
    with pytest.raises(errors.DataError, match="Conversations or conversation records, got str"):
        find("molmo2").measure("cat.jpg")
