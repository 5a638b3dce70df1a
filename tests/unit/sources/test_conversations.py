"""Rows become examples: what belongs together, in which order, under which name."""

import json
import pickle

import numpy as np
import PIL.Image
import pytest
import treepack as tp
from treepack.errors import DataError, DatasetError
from treepack.sources.conversations import Conversations, Medium, Turn, read_record


def row(*said, **fields):
    speakers = ("human", "gpt")
    turns = [{"from": speakers[i % 2], "value": text} for i, text in enumerate(said)]
    return {**fields, "conversations": turns}


def write(path, rows):
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    return path


def questions(example):
    return [turns[0].question for turns in example.branches]


def test_rows_of_one_image_are_branches_of_one_tree_in_order_of_appearance():
    source = tp.group_conversations(
        [
            row("<image>\nA?", "a", image="x.jpg"),
            row("<image>\nB?", "b", image="y.jpg"),
            row("<image>\nC?", "c", "D?", "d", image="x.jpg"),
        ]
    )
    assert [example.key for example in source] == ["x.jpg", "y.jpg"]
    assert source[0].branches == ((Turn("A?", "a"),), (Turn("C?", "c"), Turn("D?", "d")))
    assert source[0].media == (Medium("image", "x.jpg"),)


def test_rows_without_media_stay_alone():
    source = tp.group_conversations([row("Hi", "Ho", id=0), row("Hi", "Ho", id="b"), row("A", "B")])
    assert [example.key for example in source] == ["0", "b", "record 2"]
    assert all(len(example.branches) == 1 and not example.media for example in source)


@pytest.mark.parametrize("image", [None, "", []])
def test_a_field_without_an_image_is_no_image(image):
    assert tp.group_conversations([row("Hi", "Ho", image=image)])[0].media == ()


def test_the_same_media_in_another_order_are_another_example():
    text = "<image><image>?"
    source = tp.group_conversations(
        [row(text, "1", image=["a", "b"]), row(text, "2", image=["b", "a"])]
    )
    assert [example.key for example in source] == ["a + b", "b + a"]


def test_media_stand_in_the_order_of_their_placeholders():
    source = tp.group_conversations(
        [row("<video> and <image>, <image>?", "x", images=["a", "b"], video="v")]
    )
    assert [m.value for m in source[0].media] == ["v", "a", "b"]
    assert source[0].texts == ("", "and", ",")
    assert questions(source[0]) == ["?"]


def test_text_before_an_image_moves_behind_it():
    records = [row(f"{q} <image>\nAnswer.", "x", image="a") for q in ("What?", "")]
    (example,) = tp.group_conversations(records)
    assert example.texts == ("",)
    assert questions(example) == ["What?\nAnswer.", "Answer."]
    (alone,) = tp.group_conversations(records[:1])
    assert alone.branches[0] == example.branches[0]


def test_blanks_count_in_a_text_without_media():
    assert questions(tp.group_conversations([row(" a\n", "b ")])[0]) == [" a\n"]


def test_system_texts_separate_trees():
    def with_system(text):
        turns = [{"role": "system", "content": text}, {"role": "user", "content": "<image>?"}]
        return {"image": "a", "messages": [*turns, {"role": "assistant", "content": "!"}]}

    source = tp.group_conversations([with_system("Be kind."), with_system("Be brief.")])
    assert [example.system for example in source] == ["Be kind.", "Be brief."]


def test_messages_say_the_same_as_conversations():
    parts = [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}
    inline = {"messages": [{"role": "user", "content": parts}, answer]}
    column = {
        "images": ["a.jpg"],
        "messages": [{"role": "user", "content": [{"type": "image"}, parts[1]]}, answer],
    }
    llava = row("<image>\nWhat?", "A cat.", image="a.jpg")
    source = tp.group_conversations([inline, column, llava])
    assert len(source) == 1
    assert len(set(source[0].branches)) == 1


def test_a_placeholder_in_an_answer_or_a_text_part_is_text():
    spelt = {"role": "user", "content": [{"type": "text", "text": "Write <image>."}]}
    answer = {"role": "assistant", "content": "<image>"}
    example = tp.group_conversations([{"messages": [spelt, answer]}])[0]
    assert example.branches == ((Turn("Write <image>.", "<image>"),),)


def test_images_in_memory_are_grouped_by_contents():
    arrays = [np.full((4, 4, 3), value, np.uint8) for value in (0, 1, 0)]
    pictures = [PIL.Image.new("RGB", (4, 4)) for _ in range(2)]
    values = (*arrays, *pictures)
    source = tp.group_conversations([row("<image>?", "!", image=value) for value in values])
    assert [len(example.branches) for example in source] == [2, 1, 2]
    assert [example.key for example in source] == ["record 0", "record 1", "record 3"]


def test_a_file_reads_like_the_rows_in_it(tmp_path):
    rows = [row(f"<image>\n{i}?", str(i), image=f"{i % 3}.jpg", id=i) for i in range(7)]
    lines = write(tmp_path / "rows.jsonl", rows)
    listed = tmp_path / "rows.json"
    listed.write_text(json.dumps(rows))
    for path in (lines, listed, str(lines)):
        source = tp.group_conversations(path)
        memory = tp.group_conversations(rows, images=tmp_path)
        assert [e.branches for e in source] == [e.branches for e in memory]
        assert [e.media for e in source] == [e.media for e in memory]
        assert [e.key for e in source] == ["0.jpg", "1.jpg", "2.jpg"]


def test_relative_paths_start_at_the_file_or_where_the_user_says(tmp_path):
    path = write(tmp_path / "rows.jsonl", [row("<image>?", "!", image="a.jpg")])
    assert tp.group_conversations(path)[0].media[0].value == str(tmp_path / "a.jpg")
    assert tp.group_conversations(path, images="/data")[0].media[0].value == "/data/a.jpg"
    absolute = write(tmp_path / "abs.jsonl", [row("<image>?", "!", image="file:///x/a.jpg")])
    assert tp.group_conversations(absolute, images="/data")[0].media[0].value == "/x/a.jpg"


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_do_no_harm(tmp_path):
    path = tmp_path / "rows.jsonl"
    text = "\n".join(["", json.dumps(row("é", "b", id=1)), "  ", json.dumps(row("c", "d", id=2))])
    path.write_bytes(b"\xef\xbb\xbf" + text.lstrip().encode())
    source = tp.group_conversations(path)
    assert [example.key for example in source] == ["1", "2"]
    assert questions(source[0]) == ["é"]


def test_a_source_is_a_sequence_that_can_be_pickled(tmp_path):
    path = write(tmp_path / "rows.jsonl", [row(str(i), "b", id=i) for i in range(5)])
    source = pickle.loads(pickle.dumps(tp.group_conversations(path)))
    assert len(source) == 5
    assert source[-1].key == "4"
    assert [example.key for example in source[1:3]] == ["1", "2"]
    with pytest.raises(IndexError):
        source[5]


def test_a_pickled_source_of_a_file_does_not_carry_the_rows(tmp_path):
    def size(text):
        rows = [row(text, "b", id=i) for i in range(50)]
        return len(pickle.dumps(tp.group_conversations(write(tmp_path / "r.jsonl", rows))))

    assert size("a" * 1000) == size("a")


@pytest.mark.parametrize("text", ["", "\n \n", "[]"])
def test_no_records_are_an_error(text, tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text(text)
    for records, name in ((path, "empty.jsonl"), ([], "records"), (iter(()), "records")):
        with pytest.raises(DataError, match=f"{name}: there is no record in it"):
            tp.group_conversations(records)


def test_no_record_that_makes_sense_is_an_error_that_shows_the_first():
    with pytest.raises(DataError, match="all 2 records were skipped, the first: record 0: 1 turns"):
        tp.group_conversations([row("Q"), row("A", "B", "C")], on_error="skip")


def test_rows_are_not_modified():
    given = {"image": ["a"], "conversations": row("<image>\nA?", "a")["conversations"]}
    before = json.dumps(given)
    tp.group_conversations([given, given])
    assert json.dumps(given) == before


GOOD = row("<image>\nA?", "a", image="a.jpg")
BAD = {
    "row": (["not", "a", "row"], "object with named fields"),
    "nothing said": ({"image": "a.jpg"}, "no conversation is found among its fields ['image']"),
    "turns": ({"conversations": "Hi"}, "list of turns"),
    "turn": ({"conversations": ["Hi"]}, "a turn must be an object"),
    "speaker missing": ({"conversations": [{"value": "Hi"}]}, "no 'from'"),
    "text missing": ({"conversations": [{"from": "human"}]}, "no 'value'"),
    "speaker": ({"conversations": [{"from": "dog", "value": "Wuff"}]}, "'dog' is not known"),
    "speaker type": ({"conversations": [{"from": [1], "value": "x"}]}, "is not known"),
    "text type": ({"conversations": [{"from": "human", "value": 7}]}, "text or a list of parts"),
    "part": ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "a part must be"),
    "no turns": ({"conversations": []}, "'conversations' is empty"),
    "no answer": (row("Q"), "1 turns"),
    "answer first": ({"conversations": [{"from": "gpt", "value": "A"}]}, "turn 1 is by the assist"),
    "two questions": (
        {"conversations": [*row("Q")["conversations"], *row("Q")["conversations"]]},
        "turn 2 is by the user",
    ),
    "late system": (
        {"conversations": [*row("Q")["conversations"], {"from": "system", "value": "S"}]},
        "turn 2 is by the system",
    ),
    "placeholder missing": (row("A?", "a", image="a.jpg"), "1 images but 0 <image>"),
    "placeholder too much": (row("<image><image>A?", "a", image="a.jpg"), "more <image>"),
    "image missing": (row("<image>A?", "a"), "images (0)"),
    "video missing": (row("<video>A?", "a", image="a.jpg"), "videos (0)"),
    "late image": (row("A?", "a", "<image>B?", "b", image="a.jpg"), "in turn 3"),
    "image type": (row("<image>A?", "a", image=7), "got int"),
    "image object": (row("<image>A?", "a", image={"bytes": 1}), "got int"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_row_that_makes_no_sense_is_named_by_file_and_line(bad, tmp_path):
    wrong, message = BAD[bad]
    path = write(tmp_path / "rows.jsonl", [GOOD, wrong, GOOD])
    with pytest.raises(DataError) as caught:
        tp.group_conversations(path)
    assert f"{path}:2" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("bad", BAD)
def test_such_a_row_is_skipped_and_counted_on_request(bad, tmp_path):
    path = write(tmp_path / "rows.jsonl", [GOOD, BAD[bad][0], GOOD])
    source = tp.group_conversations(path, on_error="skip")
    assert source.skipped == 1
    assert [len(example.branches) for example in source] == [2]


@pytest.mark.parametrize("line", ["{", '{"id": 1', "nonsense", '{"a": "\udc80"}', "[" * 100_000])
def test_a_line_that_is_no_json_is_named(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f"{json.dumps(GOOD)}\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"rows.jsonl:2: is not JSON"):
        tp.group_conversations(path)
    assert tp.group_conversations(path, on_error="skip").skipped == 1


def test_an_error_names_the_row_and_its_id():
    with pytest.raises(DataError, match=r"record 1 \(example 'coco/17'\): 1 turns"):
        tp.group_conversations([GOOD, row("Q", id="coco/17")])


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none.jsonl: cannot be read: No such file"):
        tp.group_conversations(tmp_path / "none.jsonl")


def test_an_unknown_way_to_treat_errors_is_rejected():
    with pytest.raises(DatasetError, match="'raise' or 'skip'"):
        tp.group_conversations([], on_error="ignore")


TURNS = [[("Is it?", "Yes.")]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"branches": []}, "at least one conversation"),
        ({"branches": [[]]}, "at least one turn"),
        ({"branches": None}, "branches is a NoneType"),
        ({"branches": "Is it?"}, "branches is a str"),
        ({"branches": [("Is it?", "Yes.")]}, r"got 'Is it\?'.*\[\[\(question, answer\)\]\]"),
        ({"branches": [("hi", "yo")]}, r"got 'hi'.*\[\[\(question, answer\)\]\]"),
        ({"branches": [[("Is it?",)]]}, r"got \('Is it\?',\)"),
        ({"branches": [[("Is it?", 7)]]}, r"got \('Is it\?', 7\)"),
        ({"branches": ["Is it?"]}, "got 'Is it"),
        ({"branches": [7]}, "got 7"),
        (
            {"branches": TURNS, "media": [("image", "a")], "texts": ["x", "y"]},
            "2 texts for 1 media",
        ),
        (
            {"branches": TURNS, "media": [("image", "a"), ("image", "b")], "texts": "xy"},
            "texts is a str",
        ),
        ({"branches": TURNS, "media": ("image", "cat.png")}, r"got 'image'.*\(\"image\", value\)"),
        ({"branches": TURNS, "media": ["cat.png"]}, r"got 'cat.png'"),
        ({"branches": TURNS, "media": [("sound", "a.wav")]}, r"got \('sound', 'a.wav'\)"),
        ({"branches": TURNS, "media": "cat.png"}, "media is a str"),
    ],
)
def test_conversations_that_cannot_be_are_rejected(arguments, says):
    with pytest.raises(DataError, match=f"example 'k': .*{says}"):
        Conversations(**arguments, key="k")


def test_a_row_alone_is_what_it_is_in_a_group_and_has_the_name_it_is_given():
    silent, named = row("Hi", "Ho"), row("Hi", "Ho", id="b")
    shown = row("Look: <image>\nA?", "a", image="x.jpg")
    assert [read_record(r, "record 7").key for r in (silent, named, shown)] == [
        "record 7",
        "b",
        "x.jpg",
    ]
    for raw in (silent, named, shown):
        alone, grouped = read_record(raw, "record 0"), tp.group_conversations([raw])[0]
        for field in ("rows", "media", "texts", "system", "key"):
            assert getattr(alone, field) == getattr(grouped, field)
    with pytest.raises(DataError, match="record 7: 1 turns"):
        read_record(row("Q"), "record 7")


def test_conversations_are_shown_in_short(tmp_path):
    picture = np.zeros((500, 500, 3), np.uint8)
    example = Conversations(TURNS * 50, [("image", picture)], key="k")
    assert repr(example) == "Conversations(key='k', media=['image'], branches=50)"
    rows = [row("<image>?", str(i), image=f"{i % 3}.jpg") for i in range(7)]
    assert repr(tp.group_conversations(rows)) == "GroupedConversations(examples=3, records=7)"
    path = write(tmp_path / "rows.jsonl", [*rows, row("Q")])
    shown = repr(tp.group_conversations(path, on_error="skip"))
    assert shown == f"GroupedConversations({str(path)!r}, examples=3, records=7, skipped=1)"
