"""Other spellings of what the data says: honoured or rejected by name, like those in the tables."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import treepack as tp
from treepack.errors import DataError, DatasetError
from treepack.sources.conversations import read_record

USER, GPT = {"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "A"}
NAN = float("nan")


def record(*turns, **fields):
    return {"image": "a.jpg", "messages": list(turns or (USER, GPT)), **fields}


def read(*turns, **fields):
    return read_record(record(*turns, **fields), "r")


# --- fields


@pytest.mark.parametrize("field", ["trainable", "train", "loss"])
@pytest.mark.parametrize("value", [False, np.bool_(False), np.float32(0), 0])
def test_an_answer_says_in_many_ways_that_it_is_not_trained_on(field, value):
    assert read(USER, {**GPT, field: value}).branches[0][0].weight == 0


@pytest.mark.parametrize(
    "field", ["loss_mask", "ignore", "do_train", "no_loss", "think", "bbox_2d"]
)
@pytest.mark.parametrize("value", [False, True, 0, "x", [1]])
def test_a_turn_is_not_read_without_what_it_says(field, value):
    with pytest.raises(DataError, match=f"a turn by assistant has '{field}'"):
        read(USER, {**GPT, field: value})


@pytest.mark.parametrize("field", ["loss_mask", "train", "enable_thinking", "audio_url", "loss"])
@pytest.mark.parametrize("value", [False, True, "x"])
def test_a_record_is_not_read_without_what_it_says(field, value):
    with pytest.raises(DataError, match=f"the record has '{field}'"):
        read(**{field: value})


@pytest.mark.parametrize("field", ["system_message", "system_instruction"])
def test_a_system_text_has_several_names(field):
    assert read(**{field: "S"}).system == "S"


@pytest.mark.parametrize(
    ("field", "option"), [("start_sec", "start"), ("end_seconds", "end"), ("video_end", "end")]
)
def test_the_ends_of_a_clip_have_several_names(field, option):
    video = {"path": "v.mp4", field: 2}
    example = read_record({"video": video, "question": "Q", "answer": "A"}, "r")
    assert example.media[0].options == {option: 2.0}


@pytest.mark.parametrize("field", ["video_fps", "frame_rate", "segment", "frame_indices", "rotate"])
def test_a_medium_is_not_read_without_what_is_said_of_it(field):
    part = {"type": "video", "video": "v.mp4", field: 2}
    with pytest.raises(DataError, match=f"a video has '{field}'"):
        read({"role": "user", "content": [part]}, GPT, image=None)


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_numbers_that_no_float_holds(value):
    with pytest.raises(DataError, match="'weight' must be"):
        read(weight=value)
    with pytest.raises(DataError, match="'fps' of a video must be"):
        read_record({"video": {"path": "v", "fps": value}, "question": "Q", "answer": "A"}, "r")


def test_a_history_is_read_or_rejected():
    pairs = [["<image>1?", "1"]]
    for fields in ({"prompt": "Q", "response": "A"}, {"question": "Q", "answer": "A"}):
        with pytest.raises(DataError, match=r"has 'history'.*earlier turns into the messages"):
            read_record({"image": "a.jpg", "history": pairs, **fields}, "r")
        assert read_record({**fields, "history": []}, "r").branches == ((("Q", "A", 1.0),),)


# --- empty answers


@pytest.mark.parametrize("empty", ["", " ", "\n", [], [{"type": "text", "text": ""}]])
def test_an_empty_answer_would_train_its_end_alone(empty):
    with pytest.raises(DataError, match="answer 1 is empty, and its end of turn would be trained"):
        read(USER, {"role": "assistant", "content": empty})
    more = {"role": "user", "content": "?"}, GPT
    silent = {"role": "assistant", "content": empty, "loss": False}
    assert [turn.weight for turn in read(USER, silent, *more).branches[0]] == [0, 1]


FORMATS = {
    "texts": {"images": ["a.jpg"], "texts": [{"user": "Q", "assistant": None}]},
    "question": {"image": "a.jpg", "question": "Q", "answer": None},
    "caption": {"image": "a.jpg", "caption": None},
    "completion": {"image": "a.jpg", "prompt": "Q", "completion": None},
    "output": {"image": "a.jpg", "instruction": "Q", "output": None},
    "chosen": {"image": "a.jpg", "prompt": "Q", "chosen": None, "rejected": "x"},
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("empty", ["", " ", None])
def test_an_empty_answer_is_rejected_in_every_format(form, empty):
    filled = json.loads(json.dumps(FORMATS[form]).replace("null", json.dumps(empty)))
    with pytest.raises(DataError):
        read_record(filled, "r")


# --- what pandas and numpy make of a record


def nulls():
    yield NAN
    yield np.float64("nan")
    yield np.float32("nan")
    pandas = pytest.importorskip("pandas")
    yield pandas.NA
    yield pandas.NaT


def test_the_nulls_of_pandas_are_absences():
    for null in nulls():
        fields = ("system", "video", "tools", "id", "conversations", "caption", "history")
        assert read(**dict.fromkeys(fields, null)).branches == read().branches
        assert read_record({"image": null, "question": "Q", "answer": "A"}, "r").media == ()
    with pytest.raises(DataError, match="'weight' must be true"):
        read(weight=NAN)


def objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_arrays_of_texts_and_of_objects_are_lists():
    plain = read()
    part = {"role": "user", "content": objects({"type": "image"}, {"type": "text", "text": "Q"})}
    for made in (
        {"image": "a.jpg", "messages": objects(USER, GPT)},
        {"images": objects("a.jpg"), "messages": [USER, GPT]},
        {"images": np.array(["a.jpg"]), "messages": objects(part, GPT)},
        {"image": "a.jpg", "texts": objects({"user": "Q", "assistant": "A"})},
        {"image": "a.jpg", "question": "Q", "answers": objects("A")},
    ):
        example = read_record(made, "r")
        assert (example.branches, example.media) == (plain.branches, plain.media)


def test_a_table_of_pandas_goes_through_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(
        {
            "image": ["a.jpg", None, "a.jpg"],
            "messages": [[USER, GPT], [{"role": "user", "content": "T"}, GPT], [USER, GPT]],
            "system": [None, "S", None],
            "weight": [1, 2, 3],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    sources = [
        tp.group_conversations(tmp_path / "t.parquet", images=""),
        tp.group_conversations(frame.to_dict("records")),
        tp.group_conversations(pandas.read_parquet(tmp_path / "t.parquet").to_dict("records")),
    ]
    for source in sources:
        found = [(e.system, [b[0].weight for b in e.branches]) for e in source]
        assert found == [("", [1, 3]), ("S", [2])]
    with pytest.raises(DatasetError, match=r"to_parquet\(path\)"):
        tp.group_conversations(frame)


def test_a_scalar_of_numpy_is_no_image():
    with pytest.raises(DataError, match="image must be a path"):
        read(image=np.void(b"\xff\xd8"))


# --- text files


LINE = json.dumps({"question": "Q", "answer": "A"})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
@pytest.mark.parametrize("text", [LINE + "\n", f"[{LINE}]"])
def test_other_encodings_than_utf_8_are_named(tmp_path, encoding, text):
    (tmp_path / "t.jsonl").write_bytes(text.encode(encoding))
    says = "UTF-16" if encoding != "utf-16-le" else "of no known kind"
    with pytest.raises(DataError, match=says):
        tp.group_conversations(tmp_path / "t.jsonl")


def test_separators_of_unicode_end_no_line(tmp_path):
    answer = "a\u2028b\u2029c\x85d"
    row = json.dumps({"question": "Q", "answer": answer}, ensure_ascii=False)
    (tmp_path / "t.jsonl").write_text(f"\ufeff{row}\n\ufeff{LINE}\n", "utf-8")
    source = tp.group_conversations(tmp_path / "t.jsonl")
    assert [example.branches[0][0].answer for example in source] == [answer, "A"]


TWICE = '{"question": "Q", "answer": "A", "answer": "B"}'


@pytest.mark.parametrize(
    "text",
    [TWICE, f"[{TWICE}]", '{"messages": [{"role": "user", "content": "Q", "content": "R"}]}'],
)
def test_a_field_that_stands_twice_is_rejected(tmp_path, text):
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"'(answer|content)' stands twice in one object"):
        tp.group_conversations(path)
    path.write_text(f"{TWICE}\n{LINE}")
    assert tp.group_conversations(path, on_error="skip").skipped == 1


def test_a_text_of_millions_of_letters_is_read_and_a_bad_one_is_cut(tmp_path):
    long = "x" * 3_000_000
    (tmp_path / "t.jsonl").write_text(json.dumps({"question": long, "answer": long}))
    (example,) = tp.group_conversations(tmp_path / "t.jsonl")
    assert example.branches[0][0].answer == long
    with pytest.raises(DataError) as caught:
        read_record({"question": [long], "answer": "A"}, "r")
    assert len(str(caught.value)) < 400


# --- packed files


def packed_zip(data):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("t.jsonl", data)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("pack", "says"),
    [
        (packed_zip, "a zip archive: unpack it"),
        (bz2.compress, "bzip2: unpack it"),
        (lzma.compress, "xz: unpack it"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "zstd: unpack it"),
    ],
)
def test_what_is_packed_otherwise_is_named(tmp_path, pack, says):
    (tmp_path / "t.jsonl.x").write_bytes(pack(LINE.encode()))
    with pytest.raises(DataError, match=says):
        tp.group_conversations(tmp_path / "t.jsonl.x")


@pytest.mark.parametrize("keep", [3, 12, 200, -4])
def test_a_gzip_that_is_cut_off_leaves_nothing_behind(tmp_path, keep):
    rows = "\n".join(json.dumps({"question": str(i), "answer": "A"}) for i in range(500))
    packed = gzip.compress(rows.encode())
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(packed[:keep])
    with pytest.raises(DataError, match=r"t\.jsonl\.gz: cannot be unpacked"):
        tp.group_conversations(path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl.gz"]
    path.write_bytes(packed)
    assert len(tp.group_conversations(path)) == 500


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    "stem", ["../../0", "/etc/0", "a\nb", "\udcff", "d/e/0", "x" * 300, "\u2028", "0 1", "'\""]
)
def test_odd_names_in_a_tar_are_only_names(tmp_path, stem):
    path = tmp_path / "t.tar"
    write_tar(path, [(f"{stem}.jpg", b"\xff\xd8"), (f"{stem}.json", LINE.encode())])
    (example,) = tp.group_conversations(path)
    assert example.media[0].value == b"\xff\xd8"
    assert example.branches[0][0].answer == "A"
    assert {p.name.split(".")[0] for p in tmp_path.iterdir()} == {"t"}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([("0.jpg", b"1"), ("0.jpg", b"2"), ("0.json", LINE.encode())], "holds '0.jpg' twice"),
        ([("0.json", TWICE.encode())], "'answer' stands twice"),
        ([("0.json", b"\xff\xff")], "is not JSON"),
        ([("0", b"1"), ("", b"2")], "no conversation is found"),
        ([("0.wav", b"1"), ("0.json", LINE.encode())], "'audio'"),
    ],
)
def test_odd_samples_of_a_tar_are_rejected(tmp_path, files, says):
    write_tar(tmp_path / "t.tar", files)
    with pytest.raises(DataError, match=says):
        tp.group_conversations(tmp_path / "t.tar")


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([record()], 3), "images must be the path of a folder, got 3"),
        ((LINE.encode(),), "records is bytes; pass a path"),
        ((None,), "records is a NoneType"),
        ((record(),), "records is one object"),
    ],
)
def test_arguments_that_make_no_sense(arguments, says):
    with pytest.raises(DatasetError, match=says):
        tp.group_conversations(*arguments)
    with pytest.raises(DatasetError, match="cache must be the path of a folder, got 3"):
        tp.group_conversations([record()], cache=3)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("a\0b", "is not the name of a file"),
        ("https://x.y/z.jsonl", "is no file; nothing is downloaded"),
        ("hf://user/name", "is no file; nothing is downloaded"),
        ("none.jsonl", "none.jsonl: cannot be read"),
        (Path("no*.jsonl"), r"no\*.jsonl: cannot be read"),
    ],
)
def test_paths_that_are_no_files(tmp_path, monkeypatch, path, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=says):
        tp.group_conversations(path)
