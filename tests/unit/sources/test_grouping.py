"""What belongs together, by identity; and a record is the same whatever its siblings are."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import PIL.Image
import pytest
import treepack as tp
from hypothesis import given, settings
from hypothesis import strategies as st
from treepack.errors import DataError, DatasetError
from treepack.sources import grouping


def qa(question, **fields):
    return {"question": question, "answer": "!", **fields}


def llava(question, **fields):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "!"}]
    return {"conversations": turns, **fields}


def png(value, size=(4, 4)):
    out = io.BytesIO()
    PIL.Image.new("RGB", size, (value,) * 3).save(out, "png")
    return out.getvalue()


# --- text before media


@pytest.mark.parametrize(
    ("option", "images", "texts", "question"),
    [
        (None, 1, ("",), "Look:\nQ"),
        ("move", 1, ("",), "Look:\nQ"),
        ("keep", 1, ("Look:",), "Q"),
        (None, 2, ("Look:", "and"), "Q"),
        ("keep", 2, ("Look:", "and"), "Q"),
        ("move", 2, ("", ""), "Look:\nand\nQ"),
    ],
)
def test_text_before_media(option, images, texts, question):
    said = "Look: <image>" + " and <image>" * (images - 1) + "\nQ"
    record = llava(said, image=["a.jpg", "b.jpg"][:images])
    (example,) = tp.group_conversations([record], text_before_media=option)
    assert example.texts == texts
    assert example.branches[0][0].question == question


def test_records_that_keep_other_texts_are_other_trees():
    said = ["Look: <image>A", "<image>B", "Look:\n<image> C"]
    source = tp.group_conversations(
        [llava(q, image="a.jpg") for q in said], text_before_media="keep"
    )
    assert [(e.texts, len(e.branches)) for e in source] == [(("Look:",), 2), (("",), 1)]


def test_a_treatment_that_does_not_exist_is_rejected():
    with pytest.raises(DatasetError, match="text_before_media must be 'move' or 'keep', got 'no'"):
        tp.group_conversations([llava("Q")], text_before_media="no")


PIECES = st.sampled_from(["", "<image>", "<image>\n", "Look: ", "and", " ", "\n", "Q?"])
RECORDS = st.lists(
    st.tuples(st.lists(PIECES, max_size=5), st.sampled_from(["", "S"])), min_size=1, max_size=5
)


def said_by(example, branch):
    """Everything that is tokenised of one branch, in order."""
    return example.system, example.texts, tuple(example.media), example.branches[branch]


@given(RECORDS, st.sampled_from([None, "move", "keep"]), st.randoms())
@settings(max_examples=60, deadline=None)
def test_what_a_record_says_never_depends_on_its_siblings(drawn, option, random):
    records = []
    for n, (pieces, system) in enumerate(drawn):
        text = "".join(pieces)
        images = [random.choice("ab") for _ in range(text.count("<image>"))]
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": str(n)}]
        records.append({"images": images, "conversations": turns, "system": system})

    def group(some):
        return tp.group_conversations(some, text_before_media=option)

    together = {
        branch[0].answer: said_by(example, n)
        for example in group(records)
        for n, branch in enumerate(example.branches)
    }
    assert len(together) == len(records)
    for n, record in enumerate(records):
        assert said_by(group([record])[0], 0) == together[str(n)]


# --- identity


def test_media_are_the_same_by_path_else_by_contents(tmp_path):
    one, two = png(1), png(2)
    (tmp_path / "a.png").write_bytes(one)
    values = {
        "path": ["a.png", "./a.png", "x//a.png", "x/a.png"],
        "bytes": [one, bytearray(one), two, {"bytes": one, "path": "a.png"}],
        "names beside bytes": [{"bytes": one, "path": "0.png"}, {"bytes": two, "path": "0.png"}],
        "PIL": [PIL.Image.open(io.BytesIO(b)) for b in (one, one, two)],
        "arrays": [np.full((4, 4, 3), v, np.uint8) for v in (1, 1, 2)],
        "shapes": [np.zeros(s, np.uint8) for s in ((4, 9, 3), (9, 4, 3))],
        "sizes": [PIL.Image.new("L", (4, 9)), PIL.Image.new("L", (9, 4))],
    }
    expected = {
        "path": [2, 2],
        "bytes": [3, 1],
        "names beside bytes": [1, 1],
        "PIL": [2, 1],
        "arrays": [2, 1],
        "shapes": [1, 1],
        "sizes": [1, 1],
    }
    for name, images in values.items():
        source = tp.group_conversations([qa("?", image=image) for image in images])
        assert [len(e.branches) for e in source] == expected[name], name


def test_palettes_and_orientations_are_a_part_of_an_image():
    grey = PIL.Image.new("P", (2, 2))
    other = grey.copy()
    grey.putpalette([0, 0, 0, 9, 9, 9])
    other.putpalette([9, 9, 9, 0, 0, 0])
    turned = png(1)
    plain, rotated = (PIL.Image.open(io.BytesIO(turned)) for _ in range(2))
    rotated.info["exif"] = b"Exif\0\0MM\0*"
    for pair in ((grey, other), (plain, rotated)):
        assert len(tp.group_conversations([qa("?", image=image) for image in pair])) == 2


def test_an_opened_image_is_not_decoded_to_be_grouped(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    with PIL.Image.open(tmp_path / "a.png") as one, PIL.Image.open(tmp_path / "a.png") as other:
        records = [qa("?", image=one), qa("!", image=other), qa(".", image=str(tmp_path / "a.png"))]
        assert len(tp.group_conversations(records)) == 1
        assert one.fp is not None


def test_a_broken_image_in_memory_is_the_error_of_its_record():
    broken = PIL.Image.open(io.BytesIO(png(1, (90, 90))[:120]))
    with pytest.raises(DataError, match="record 1: an image cannot be read"):
        tp.group_conversations([qa("A"), qa("B", image=broken)])
    records = [qa("A"), qa("B", image=broken), qa("C", image=png(1))]
    assert tp.group_conversations(records, on_error="skip").skipped == 1


def test_a_medium_of_bytes_is_called_by_its_name():
    named = {"bytes": png(1), "path": "0001.png"}
    (example,) = tp.group_conversations([qa("?", image=named, id=7)])
    assert (example.key, example.media[0].value) == ("0001.png", named["bytes"])
    assert tp.group_conversations([qa("?", image=png(1), id=7)])[0].key == "7"


def test_examples_stand_in_the_order_of_their_first_record():
    names = np.random.default_rng(0).integers(0, 40, 300).tolist()
    source = tp.group_conversations([qa(str(i), image=f"{n}.jpg") for i, n in enumerate(names)])
    assert [example.key for example in source] == [f"{n}.jpg" for n in dict.fromkeys(names)]
    for example in source:
        numbers = [int(branch[0].question) for branch in example.branches]
        assert numbers == [i for i, n in enumerate(names) if f"{n}.jpg" == example.key]


def test_a_source_is_cheap_to_send_to_workers(tmp_path):
    path = tmp_path / "r.json"
    records = [llava("<image>" + "x" * 1000, image=f"{i}.jpg") for i in range(200)]
    path.write_text(json.dumps(records))
    source = tp.group_conversations(path)
    sent = pickle.dumps(source)
    assert len(sent) < 200 * 60
    assert pickle.loads(sent)[7].branches == source[7].branches


def test_what_was_skipped_is_logged_once(caplog):
    records = [qa("A"), {"question": "B"}, {}]
    tp.group_conversations(records, on_error="skip")
    (record,) = caplog.records
    assert "2 of 3 records were skipped, the first: record 1: no conversation" in record.message


def test_a_bar_is_shown_on_a_terminal_and_nothing_elsewhere(monkeypatch, capsys):
    assert list(grouping.with_progress("abc", 3, "reading")) == list("abc")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(grouping.with_progress("abc", 3, "reading")) == list("abc")
    assert "reading" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("train.jsonl", "the source is a path, 'train.jsonl'; pass treepack.group_conversations"),
        ({"train": [1], "test": [2]}, r"dict with the names \['train', 'test'\]"),
    ],
)
def test_what_is_no_source_names_what_is(source, says):
    with pytest.raises(DatasetError, match=says):
        tp.PackedDataset(source, budgets={"tokens": 9})


class DataFrame(dict):
    """What pandas' own looks like; importing that takes seconds."""

    iloc = loc = None

    def to_parquet(self, path): ...


def test_tables_and_paths_are_no_sources(tmp_path):
    for source in (DataFrame({0: [1]}), tmp_path):
        with pytest.raises(DatasetError, match=r"group_conversations\(path\)"):
            tp.PackedDataset(source, budgets={"tokens": 9})


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (DataFrame(), "DataFrame; write it with frame.to_parquet"),
        ({"image": "a.jpg"}, "one object with named fields; pass a list of records"),
        (7, "records is a int; pass a file"),
    ],
)
def test_what_is_no_collection_of_records_is_rejected(records, says):
    with pytest.raises(DatasetError, match=says):
        tp.group_conversations(records)


# --- by question


def test_conversations_of_one_question_share_a_tree_where_that_is_asked_for():
    records = [llava(f"<image>\n{q}", image="a.jpg") for q in "ABA"]
    records.append(llava("<image>\nA", image="b.jpg"))
    assert [len(each.branches) for each in tp.group_conversations(records)] == [3, 1]
    source = tp.group_conversations(records, by_question=True)
    asked = [[turns[0].question for turns in each.branches] for each in source]
    assert asked == [["A", "A"], ["B"], ["A"]]
    assert len(pickle.loads(pickle.dumps(source))[0].branches) == 2


def test_a_record_of_several_questions_is_an_example_of_each():
    texts = [{"user": question, "assistant": "!"} for question in "ABA"]
    source = tp.group_conversations([{"images": ["a.jpg"], "texts": texts}], by_question=True)
    asked = [[turns[0].question for turns in each.branches] for each in source]
    assert asked == [["A", "A"], ["B"]]
