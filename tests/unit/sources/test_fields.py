"""A field of a record that changes what is trained is honoured, or rejected by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import treepack as tp
from treepack.errors import DataError
from treepack.sources.conversations import Conversations, Medium, read_record
from treepack.sources.records import unsupported

USER, GPT = {"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "A"}


def record(*turns, **fields):
    return {"image": "a.jpg", "messages": list(turns or (USER, GPT)), **fields}


def read(*turns, **fields):
    return read_record(record(*turns, **fields), "r")


# --- system


@pytest.mark.parametrize("field", ["system", "system_prompt"])
def test_the_system_text_of_a_record_is_honoured_and_separates_trees(field):
    records = [record(**{field: text}) for text in ("Kind.", "Brief.", "Kind.", None, "")]
    source = tp.group_conversations(records)
    found = [(e.system, len(e.branches)) for e in source]
    assert found == [("Kind.", 2), ("Brief.", 1), ("", 2)]


def test_two_system_texts_must_agree():
    turn = {"role": "system", "content": "Kind."}
    assert read(turn, USER, GPT, system="Kind.").system == "Kind."
    with pytest.raises(DataError, match=r"'system' is 'Brief.', another system text is 'Kind.'"):
        read(turn, USER, GPT, system="Brief.")
    with pytest.raises(DataError, match="'system' must be a text, got 7"):
        read(system=7)


@pytest.mark.parametrize("content", [[{"type": "image"}], "<image> Be kind."])
def test_media_in_the_system_text_are_rejected(content):
    with pytest.raises(DataError, match="an image or video in the system text"):
        read({"role": "system", "content": content}, USER, GPT)


# --- weights


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        ({"loss": False}, 0),
        ({"loss": True}, 1),
        ({"train": False}, 0),
        ({"training": False}, 0),
        ({"weight": 0}, 0),
        ({"weight": 0.25}, 0.25),
        ({"loss_scale": 2.0}, 2),
        ({"weight": np.float32(0.5)}, 0.5),
        ({"weight": 0.5, "loss": True}, 0.5),
        ({"weight": None}, 1),
    ],
)
def test_an_answer_has_the_weight_that_it_says(fields, weight):
    assert read(USER, {**GPT, **fields}).branches[0][0].weight == weight


@pytest.mark.parametrize("value", ["no", -1, float("nan"), float("inf"), [1]])
def test_a_weight_that_is_none_is_rejected(value):
    with pytest.raises(DataError, match="'weight' must be true, false or a number"):
        read(USER, {**GPT, "weight": value})
    with pytest.raises(DataError, match="'weight' must be true, false or a number"):
        read(weight=value)


def test_only_answers_can_be_trained_on():
    assert read({**USER, "loss": False}, GPT).branches[0][0].weight == 1
    with pytest.raises(DataError, match="'train': True in a turn by the user; only answers"):
        read({**USER, "train": True}, GPT)


def test_a_record_has_a_weight_too():
    turns = (USER, {**GPT, "weight": 0.5}, {"role": "user", "content": "?"}, GPT)
    assert [t.weight for t in read(*turns, weight=4).branches[0]] == [2.0, 4.0]


# --- media


def test_what_a_record_says_of_a_medium_is_honoured_and_separates_trees():
    def shown(**options):
        part = {"type": "image", "image": "a.jpg", **options}
        return {"messages": [{"role": "user", "content": [part]}, GPT]}

    records = [shown(max_pixels=256), shown(), shown(max_pixels=256, min_pixels=None), record()]
    source = tp.group_conversations(records)
    assert [e.media[0].options for e in source] == [{"max_pixels": 256}, None]
    assert [len(e.branches) for e in source] == [2, 2]


@pytest.mark.parametrize(("start", "end"), [("start", "end"), ("video_start", "video_end")])
def test_different_clips_of_a_film_are_different_media(start, end):
    def clip(*times):
        part = {"type": "video", "video": "v.mp4", start: times[0], end: times[1]}
        return {"messages": [{"role": "user", "content": [part]}, GPT]}

    def of_record(*times):
        return {"video": "v.mp4", "question": "Q", "answer": "A", start: times[0], end: times[1]}

    for make in (clip, of_record):
        source = tp.group_conversations([make(0, 2.5), make(2.5, 5), make(0.0, 2.5)])
        assert [e.media[0].options for e in source] == [
            {"start": 0.0, "end": 2.5},
            {"start": 2.5, "end": 5.0},
        ]


def test_options_of_a_record_go_to_its_media_and_those_of_a_medium_go_first():
    images = ["a.jpg", {"path": "b.jpg", "max_pixels": 64}]
    turns = [{"role": "user", "content": "<image><image>"}, GPT]
    found = read(*turns, image=None, images=images, max_pixels=256).media
    assert [m.options for m in found] == [{"max_pixels": 256}, {"max_pixels": 64}]
    pair = [{"role": "user", "content": "<video><video>"}, GPT]
    with pytest.raises(DataError, match="one start or end for 2 videos"):
        read(*pair, image=None, videos=["a.mp4", "b.mp4"], start=3)
    part = [{"type": "image", "max_pixels": 64}, {"type": "text", "text": "Q"}]
    assert read({"role": "user", "content": part}, GPT).media[0].options == {"max_pixels": 64}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_pixels": "256"}, "'max_pixels' of an image must be a number"),
        ({"max_pixels": -1}, "must be a number above 0"),
        ({"max_pixels": True}, "must be a number above 0"),
        ({"max_pixels": 0}, "must be a number above 0"),
        ({"min_pixels": 9, "max_pixels": 4}, "leave nothing"),
        ({"start": 1}, "an image has 'start'; it can have min_pixels"),
        ({"nframes": 1}, "an image has 'num_frames'"),
        *(({name: 2}, f"an image has '{name}': 2") for name in ("raw_fps", "crop", "total_pixels")),
    ],
)
def test_options_that_cannot_be_are_rejected(options, says):
    with pytest.raises(DataError, match=says):
        read(image={"path": "a.jpg", **options})


def test_how_frames_are_sampled_is_said_of_a_medium_and_not_of_a_record():
    def part(**options):
        shown = {"type": "video", "video": "v.mp4", **options}
        return read_record({"messages": [{"role": "user", "content": [shown]}, GPT]}, "r")

    assert part(fps=2).media[0].options == {"fps": 2.0}
    assert part(nframes=8).media[0].options == {"num_frames": 8}
    described = {"video": "v.mp4", "question": "Q", "answer": "A", "fps": 29.97, "num_frames": 900}
    assert read_record(described, "r").media[0].options is None
    with pytest.raises(DataError, match="a video has 'max_crops'; it can have"):
        part(max_crops=3)


# --- what cannot be trained on


@pytest.mark.parametrize("field", sorted(unsupported.RECORD))
def test_fields_of_a_record_that_are_rejected_by_name(field):
    with pytest.raises(DataError, match=rf"the record has '{field}': \['x'\]; "):
        read(**{field: ["x"]})
    assert read(**{field: None}).branches == read(**{field: []}).branches


@pytest.mark.parametrize("field", sorted(unsupported.TURN))
def test_fields_of_a_turn_that_are_rejected_by_name(field):
    with pytest.raises(DataError, match=f"a turn by assistant has '{field}'"):
        read(USER, {**GPT, field: "x"})
    assert read(USER, {**GPT, field: None}).branches == read().branches


@pytest.mark.parametrize("speaker", sorted(unsupported.SPEAKERS))
def test_speakers_that_are_rejected_by_name(speaker):
    with pytest.raises(DataError, match=f"a turn by '{speaker}'; "):
        read(USER, {"role": speaker, "content": "x"})


@pytest.mark.parametrize("kind", sorted(unsupported.PARTS))
def test_parts_that_are_rejected_by_name(kind):
    with pytest.raises(DataError, match=f"a part of type '{kind}'; "):
        read({"role": "user", "content": [{"type": kind}]}, GPT)


@pytest.mark.parametrize("tag", unsupported.TAGS)
def test_tags_of_boxes_are_rejected_where_a_record_has_boxes(tag):
    turn = {"role": "user", "content": f"<image>Where is {tag}?"}
    with pytest.raises(DataError, match=f"{tag} in a text; boxes are not written"):
        read(turn, GPT, objects={"bbox": [[1, 2, 3, 4]]})
    assert read(turn, GPT).branches[0][0].question == f"Where is {tag}?"
    assert read(objects=[1]).branches == read().branches


# --- nulls


def test_a_null_is_an_absence():
    union = {"from": None, "value": None, "loss": None, "tool_calls": None}
    turns = ({**USER, **union}, {**GPT, **union})
    nulls = dict.fromkeys(["conversations", "texts", "query", "caption", "images", "system"])
    assert read(*turns, **nulls).branches == read().branches
    assert read(conversations=[]).branches == read().branches
    assert read(image=None, images=[None, "a.jpg", {"bytes": None, "path": None}]).media == (
        Medium("image", "a.jpg"),
    )


def test_two_values_of_one_thing_must_agree():
    assert read({**USER, "from": "human"}, GPT).branches == read().branches
    with pytest.raises(DataError, match="'from': 'gpt' and 'role': 'user'; leave one"):
        read({**USER, "from": "gpt"}, GPT)
    with pytest.raises(DataError, match="'value': 'B' and 'content': 'A'; leave one"):
        read(USER, {**GPT, "value": "B"})


# --- texts and paths


@pytest.mark.parametrize("field", ["question", "answer", "system"])
def test_half_a_character_is_rejected_in_its_record_alone(field):
    broken = {"question": "Q", "answer": "A", "system": "S", field: "ab \ud83d cd"}
    records = [{"question": "Q", "answer": str(i), "image": "a.jpg"} for i in range(9)]
    source = tp.group_conversations([*records, {**broken, "image": "a.jpg"}], on_error="skip")
    assert source.skipped == 1
    assert len(source[0].branches) == 9
    with pytest.raises(DataError, match=r"r: half a character .* place 3 of 'ab \\ud83d cd'"):
        read_record(broken, "r")


@pytest.mark.parametrize("path", ["http://x.y/a.jpg", "https://x.y/a.jpg", "s3://bucket/a.jpg"])
def test_an_address_is_rejected_while_grouping(path):
    with pytest.raises(DataError, match="is not the path of a file; nothing is downloaded"):
        tp.group_conversations([record(image=path)])


def test_a_data_uri_is_decoded_or_rejected():
    assert read(image="data:image/png;base64,AAEC").media == (Medium("image", b"\0\1\2"),)
    for uri in ("data:image/png,abc", "data:image/png;base64,", "data:;base64,A"):
        with pytest.raises(DataError, match="is not base64"):
            read(image=uri)


@pytest.mark.parametrize(
    "bad",
    [
        record(image="data:" + "x" * 2_000_000),
        record(image="http://" + "x" * 2_000_000),
        record(USER, {"role": "x" * 2_000_000, "content": "A"}),
        record(USER, {**GPT, "tool_calls": ["x" * 2_000_000]}),
        record(USER, id="x" * 2_000_000),
        record(USER, {**GPT, "weight": "x" * 2_000_000}),
        record(USER, {"role": "assistant", "content": {str(i): "x" * 999 for i in range(9)}}),
        {f"field {i}": 1 for i in range(100_000)},
        ["x" * 2_000_000],
    ],
)
def test_errors_show_at_most_200_characters_of_any_value(bad):
    with pytest.raises(DataError) as caught:
        tp.group_conversations([bad])
    longest = max(len(word) for word in str(caught.value).replace("'", " ").split())
    assert longest <= 200
    assert len(str(caught.value)) < 1200


def test_roles_are_one_for_each_branch():
    with pytest.raises(DataError, match="1 roles for 2 branches"):
        Conversations([[("a", "b")]] * 2, roles=["chosen"])


def test_a_record_from_json_is_what_it_is_in_memory(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(record(USER, {**GPT, "loss": False}, system="S", weight=2)))
    (example,) = tp.group_conversations(path, images="")
    assert (example.system, example.branches[0][0].weight) == ("S", 0.0)
