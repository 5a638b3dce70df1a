"""Every format that people have is read into the same turns, or rejected with what to write."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from treepack.errors import DataError, DatasetError
from treepack.sources.conversations import Medium, read_record
from treepack.sources.records.formats import formats

Q, A = "What is it?", "A cat."
IMAGE = (Medium("image", "a.jpg"),)
USER, GPT = {"role": "user", "content": f"<image>\n{Q}"}, {"role": "assistant", "content": A}
LLAVA = [{"from": "human", "value": f"<image>\n{Q}"}, {"from": "gpt", "value": A}]
PARTS = [{"type": "image"}, {"type": "text", "text": Q}]
ONE_TURN = {
    "LLaVA": {"id": "1", "image": "a.jpg", "conversations": LLAVA},
    "InternVL": {
        "image": ["a.jpg"],
        "width_list": [640],
        "height_list": [480],
        "conversations": LLAVA,
    },
    "ShareGPT": {"images": ["a.jpg"], "conversation": LLAVA},
    "chatgpt": {
        "image": "a.jpg",
        "conversations": [LLAVA[0], {"from": "chatgpt", "value": A}],
    },
    "ms-swift": {"images": ["a.jpg"], "messages": [USER, GPT]},
    "TRL": {"images": ["a.jpg"], "messages": [{"role": "user", "content": PARTS}, GPT]},
    "Nemotron": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "a.jpg", "text": None},
                    {"type": "text", "image": None, "text": Q},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "image": None, "text": A}]},
        ]
    },
    "OpenAI": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}, PARTS[1]],
            },
            GPT,
        ]
    },
    "image_url as a text": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": "a.jpg"}, PARTS[1]]},
            GPT,
        ]
    },
    "FineVision": {"images": ["a.jpg"], "texts": [{"user": Q, "assistant": A, "source": "x"}]},
    "query": {"images": ["a.jpg"], "query": f"<image>{Q}", "response": A, "history": None},
    "query without a tag": {"images": ["a.jpg"], "query": Q, "response": A},
    "instruction": {"image": "a.jpg", "instruction": Q, "input": "", "output": A},
    "prompt": {"image": "a.jpg", "prompt": Q, "completion": A},
    "prompt of messages": {"image": "a.jpg", "prompt": [USER], "completion": [GPT]},
    "VQA": {"image": "a.jpg", "question_id": 3, "question": Q, "answer": A},
    "VQA of equal answers": {"image": "a.jpg", "question": Q, "answers": [{"answer": A}] * 10},
}


@pytest.mark.parametrize("form", ONE_TURN)
def test_a_question_and_its_answer(form):
    example = read_record(ONE_TURN[form], "record 0")
    assert example.branches == (((Q, A, 1.0),),)
    assert example.media == IMAGE
    assert (example.texts, example.system, example.roles) == (("",), "", (None,))
    assert example.key == "a.jpg"


def test_records_of_all_formats_are_one_tree_if_they_share_their_image():
    (example,) = tp.group_conversations(list(ONE_TURN.values()))
    assert len(example.branches) == len(ONE_TURN)


def branches(**record):
    return [[tuple(turn) for turn in b] for b in read_record(record, "r").branches]


def test_texts_are_branches_of_all_the_images():
    texts = [{"user": "1?", "assistant": "1"}, {"user": "2?", "assistant": "2"}]
    example = read_record({"images": ["a.jpg", "b.jpg"], "texts": texts}, "r")
    assert [b[0].question for b in example.branches] == ["1?", "2?"]
    assert [m.value for m in example.media] == ["a.jpg", "b.jpg"]
    source = tp.group_conversations([{"images": ["a.jpg"], "texts": texts}] * 2)
    assert [b[0].answer for b in source[0].branches] == ["1", "2", "1", "2"]


def test_a_record_whose_conversations_differ_in_what_stands_before_media_is_several_examples():
    questions = [f"{word} <image> or <image>?" for word in ("Red", "Blue", "Red")]
    texts = [{"user": q, "assistant": "!"} for q in questions]
    record = {"images": ["a.jpg", "b.jpg"], "texts": texts}
    source = tp.group_conversations([record])
    assert [(e.texts, len(e.branches)) for e in source] == [(("Red", "or"), 2), (("Blue", "or"), 1)]
    with pytest.raises(DataError, match="2 examples; pass the records through group_conv"):
        read_record(record, "r")
    assert len(tp.group_conversations([record], text_before_media="move")) == 1


def test_a_history_comes_first_as_pairs_or_messages():
    pair = [["<image>1?", "1"]]
    messages = [{"role": "user", "content": "<image>1?"}, {"role": "assistant", "content": "1"}]
    for history in (pair, messages):
        for fields in (
            {"query": "2?", "response": "2"},
            {"instruction": "2?", "output": "2"},
        ):
            assert branches(image="a.jpg", history=history, **fields) == [
                [("1?", "1", 1.0), ("2?", "2", 1.0)]
            ]
    # Whether the image stands before the first or the last question, nobody knows.
    with pytest.raises(DataError, match="1 images but 0 <image>"):
        branches(image="a.jpg", history=[["1?", "1"]], query="2?", response="2")
    with pytest.raises(DataError, match="'history' must be a list of pairs"):
        branches(history=["1?"], query="2?", response="2")


def test_the_input_of_an_instruction_is_its_next_line():
    assert branches(instruction="Add.", input="1 and 2", output="3") == [
        [("Add.\n1 and 2", "3", 1.0)]
    ]


PREFERENCES = {
    "texts": {"prompt": Q, "chosen": A, "rejected": "A dog."},
    "RLAIF-V": {"question": Q, "chosen": A, "rejected": "A dog."},
    "messages": {
        "prompt": [{"role": "user", "content": PARTS}],
        "chosen": [GPT],
        "rejected": [{"role": "assistant", "content": "A dog."}],
    },
    "LLaMA-Factory": {
        "conversations": LLAVA[:1],
        "chosen": {"from": "gpt", "value": A},
        "rejected": {"from": "gpt", "value": "A dog."},
    },
    "no prompt": {
        "chosen": [USER, GPT],
        "rejected": [USER, {"role": "assistant", "content": "A dog."}],
    },
}


@pytest.mark.parametrize("form", PREFERENCES)
def test_a_preference_is_two_branches_that_know_which_is_better(form):
    example = read_record({"images": ["a.jpg"], **PREFERENCES[form]}, "r")
    assert example.roles == ("chosen", "rejected")
    assert example.branches == (((Q, A, 1.0),), ((Q, "A dog.", 1.0),))
    assert example.media == IMAGE
    (both,) = tp.group_conversations([{"image": "a.jpg", **PREFERENCES[form]}] * 2)
    assert both.roles == ("chosen", "rejected") * 2


@pytest.mark.parametrize("prompt", [Q, [{"role": "user", "content": Q}]])
def test_several_responses_are_branches_with_numbers(prompt):
    record = {"prompt": prompt, "responses": [A, "A dog."], "rewards": [1, -0.5], "scores": [2, 3]}
    example = read_record(record, "r")
    assert example.branches == (((Q, A, 1.0),), ((Q, "A dog.", 1.0),))
    assert example.channels == {"reward": (1.0, -0.5), "score": (2.0, 3.0)}


def test_records_with_numbers_share_no_tree_with_records_without():
    plain = {"image": "a.jpg", "question": Q, "answer": A}
    rated = {"image": "a.jpg", "prompt": Q, "completions": [A], "advantages": [0.5]}
    source = tp.group_conversations([plain, rated, plain, rated])
    assert [len(each.branches) for each in source] == [2, 2]
    assert [dict(each.channels) for each in source] == [{}, {"advantage": (0.5, 0.5)}]


@pytest.mark.parametrize(("label", "role"), [(True, "good"), (False, "bad"), (None, None)])
def test_a_label_says_whether_the_answer_is_good(label, role):
    example = read_record({"prompt": Q, "completion": A, "label": label}, "r")
    assert example.roles == (role,)


def test_captions_answer_an_empty_question():
    assert branches(image="a.jpg", caption=A) == [[("", A, 1.0)]]
    assert branches(image="a.jpg", captions=[A, None, "Fur."]) == [
        [("", A, 1.0)],
        [("", "Fur.", 1.0)],
    ]
    with pytest.raises(DataError, match="a caption of nothing"):
        branches(caption=A)


def test_a_question_counts_once_however_many_answer_it():
    found = branches(image="a.jpg", question=Q, answers=["yes", "no", "yes", "yes"])
    assert found == [[(Q, "yes", 0.75)], [(Q, "no", 0.25)]]


def test_a_video_is_a_file_an_array_or_a_list_of_frames():
    frames = ["f/1.jpg", "f/2.jpg"]
    film = np.zeros((2, 4, 4, 3), np.uint8)
    for given, value in (("v.mp4", "v.mp4"), (film, film), (frames, frames), ([frames], frames)):
        example = read_record({"video": given, "question": Q, "answer": A}, "r")
        assert example.media == (Medium("video", value),)
    part = {"type": "video", "video": ["file:///f/1.jpg", "file:///f/2.jpg"]}
    turns = [{"role": "user", "content": [part, PARTS[1]]}, GPT]
    assert read_record({"messages": turns}, "r").media[0].value == ["/f/1.jpg", "/f/2.jpg"]
    with pytest.raises(DataError, match="a video in frames must be a list of paths"):
        read_record({"videos": [[film]], "question": Q, "answer": A}, "r")


def test_the_tag_of_an_image_in_a_video_record_is_the_video():
    example = read_record({"video": "v.mp4", "conversations": LLAVA}, "r")
    assert example.media == (Medium("video", "v.mp4"),)
    both = [{"from": "human", "value": f"<video><image>{Q}"}, LLAVA[1]]
    with pytest.raises(DataError, match="more <image> than the record has images"):
        read_record({"video": "v.mp4", "conversations": both}, "r")


def test_a_function_turns_any_record_into_one_that_is_read():
    def convert(record):
        return {"image": record["file"], "question": record["q"], "answer": record["a"]}

    (example,) = tp.group_conversations([{"file": "a.jpg", "q": Q, "a": A}], format=convert)
    assert example.branches == (((Q, A, 1.0),),)
    with pytest.raises(DataError, match=r"record 0: format\(\) failed: KeyError: 'file'"):
        tp.group_conversations([{}], format=convert)
    with pytest.raises(DataError, match="must be an object with named fields, got None"):
        tp.group_conversations([{}], format=lambda record: None)


def test_where_fields_of_several_formats_are_there_the_user_says_which():
    record = {**ONE_TURN["LLaVA"], "caption": "Fur."}
    with pytest.raises(DataError, match="those of 'caption' and of 'conversations'; say which"):
        tp.group_conversations([record])
    answers = {"caption": "Fur.", "conversations": A}
    for name, answer in answers.items():
        (example,) = tp.group_conversations([record], format=name)
        assert example.branches[0][0].answer == answer
    with pytest.raises(DataError, match="format 'texts' needs 'texts', the record has"):
        tp.group_conversations([record], format="texts")
    with pytest.raises(DatasetError, match=r"no format is called 'llava'; there are \['caption'"):
        tp.group_conversations([record], format="llava")
    with pytest.raises(DatasetError, match="format must be a name or a function, got 7"):
        tp.group_conversations([record], format=7)


def test_a_preference_beside_a_whole_conversation_is_ambiguous():
    record = {"prompt": Q, "messages": [USER, GPT], "chosen": A, "rejected": "x", "image": "a.jpg"}
    with pytest.raises(DataError, match="those of 'messages' and of 'preference'"):
        read_record(record, "r")
    roles = {"messages": (None,), "preference": ("chosen", "rejected")}
    for name, expected in roles.items():
        assert tp.group_conversations([record], format=name)[0].roles == expected


REJECTED = {
    "points": ({"image": "a.jpg", "points": [{"x": 1, "y": 2}], "label": "cat"}, "format="),
    "plain text": ({"text": "Once upon a time"}, "write 'prompt' and 'completion'"),
    "tokens": ({"input_ids": [1, 2]}, "make a MessageTree"),
    "half a preference": ({"prompt": Q, "chosen": A}, "write 'rejected' beside"),
    "texts of a preference": ({"chosen": A, "rejected": A}, "write it in 'prompt'"),
    "label": ({"prompt": Q, "completion": A, "label": "no"}, "must be true for a good answer"),
    "one response": ({"prompt": Q, "responses": A}, "must be a list of answers"),
    "both": ({"prompt": Q, "responses": [A], "completions": [A]}, "leave one"),
    "rewards": ({"prompt": Q, "responses": [A], "rewards": [1, 2]}, "list of 1 finite numbers"),
    "a reward": ({"prompt": Q, "responses": [A], "rewards": ["x"]}, "list of 1 finite numbers"),
    "swift preference": ({**ONE_TURN["ms-swift"], "rejected_response": "x"}, "write 'prompt'"),
    "choices": ({"question": Q, "choices": ["a", "b"], "answer": "a"}, "write it into the quest"),
    "number": ({"question": Q, "answer": 1}, "must be a text or a list of texts, got 1"),
    "two kinds of answers": ({"question": Q, "answer": A, "answers": [A]}, "leave one"),
    "url": ({"image_url": "http://x.y/z", "caption": A}, "a caption of nothing"),
    "unread field": ({"image_path": "a.jpg", "question": Q, "answer": A}, "name it in 'image'"),
    "texts": ({"texts": ["x"]}, "must be a list of {'user'"),
    "half of texts": ({"texts": [{"user": Q}]}, "'assistant' must be a text, got None"),
    "image twice": ({"image": "a", "images": ["b"], "question": Q, "answer": A}, "has both"),
    "answer first": (
        {"conversations": [LLAVA[1], LLAVA[0], LLAVA[1]], "image": "a.jpg"},
        r"the user begins \(with an empty text",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_is_not_read_says_what_to_write(case):
    record, says = REJECTED[case]
    with pytest.raises(DataError, match=says):
        read_record(record, "r")


def test_every_format_is_in_these_tests():
    others = [{"caption": A}, {"prompt": Q, "responses": [A]}]
    tried = [*ONE_TURN.values(), *PREFERENCES.values(), *others]
    fields = {field for record in tried for field in record}
    for module in formats().values():
        assert all(fields.intersection(group) for group in module.FIELDS)
