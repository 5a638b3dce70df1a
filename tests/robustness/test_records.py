"""Whatever a data file says, it is read, or rejected by an error of treepack's own."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import treepack as tp
from helpers.cases import cases
from treepack.errors import DataError, TreepackError
from treepack.sources.conversations import Conversations, read_record
from treepack.sources.records import unsupported
from treepack.sources.records.formats import formats
from treepack.sources.records.supply import OPTION_NAMES

WORDS = ["user", "assistant", "system", "human", "gpt", "tool", "image", "video", "text", "a.jpg"]
WORDS += [
    "",
    "<image>",
    "<video>?",
    "<image><image>",
    "Q",
    "http://x/y",
    "data:;base64,AA",
    "\ud800",
]
FIELDS = sorted(
    {
        *(field for module in formats().values() for group in module.FIELDS for field in group),
        *("image", "images", "video", "videos", "system", "id", "history", "input", "objects"),
        *("role", "content", "from", "value", "type", "text", "path", "bytes", "url", "image_url"),
        *("user", "assistant", "weight", "loss", *OPTION_NAMES, *unsupported.RECORD),
        *unsupported.TURN,
        "x",
    }
)
ODD = [None, True, False, -2, 0, 3, 300, 0.5, float("nan"), float("inf"), b"", b"ab"]
ODD += [np.zeros((2, 2, 3), np.uint8), PIL.Image.new("L", (2, 2)), np.float32(0.5), object()]


def any_value(rng, depth=3):
    """A word, something odd, or a list or an object of such things, as JSON nests them."""
    kind = rng.random()
    if depth and kind < 0.2:
        return [any_value(rng, depth - 1) for _ in range(rng.integers(4))]
    if depth and kind < 0.45:
        names = rng.choice(FIELDS, rng.integers(5)).tolist()
        return {name: any_value(rng, depth - 1) for name in names}
    pool = WORDS if kind < 0.8 else ODD
    return pool[rng.integers(len(pool))]


def any_record(rng):
    """A record that comes close to one that is read, or anything."""
    record = {name: any_value(rng) for name in rng.choice(FIELDS, rng.integers(5)).tolist()}
    kind = rng.integers(4)
    if kind == 0:
        return any_value(rng)
    if kind == 1:
        return record
    said = [any_value(rng, 2) if rng.random() < 0.5 else "<image>Q" for _ in range(4)]
    speakers = ["user", "assistant"] * 2 if rng.random() < 0.8 else rng.choice(WORDS, 4).tolist()
    turns = [{"role": w, "content": c} for w, c in zip(speakers, said, strict=True)]
    if kind == 2:
        image = {} if rng.random() < 0.3 else {"image": "a.jpg"}
        turns = turns[: rng.integers(5)]
        return {**image, **(record if rng.random() < 0.5 else {}), "messages": turns}
    fields = list(formats().values())[rng.integers(len(formats()))].FIELDS
    return {**record, **{str(rng.choice(group)): any_value(rng) for group in fields}}


def error_of(records):
    """What treepack says of records that it rejects; empty if it reads them."""
    try:
        assert all(isinstance(e, Conversations) for e in tp.group_conversations(records))
    except TreepackError as error:
        return str(error)
    return ""


def test_any_record_is_read_or_rejected_by_name():
    rejected = [len(error_of([any_record(rng)])) for rng in cases(1500, "any record")]
    assert max(rejected) < 3000
    assert 20 < sum(not length for length in rejected) < len(rejected) - 20


def test_a_bad_record_takes_no_other_along():
    good = {"image": "good.jpg", "question": "Q", "answer": "A"}
    for rng in cases(200, "a bad record"):
        records = [any_record(rng) for _ in range(rng.integers(4))]
        source = tp.group_conversations([good, *records, good], on_error="skip")
        assert source.skipped <= len(records)
        assert [len(e.branches) for e in source if e.key == "good.jpg"] == [2]


def test_any_file_is_read_or_rejected_by_name(tmp_path):
    path = tmp_path / "any.jsonl"
    letters = np.frombuffer(b'[]{},:"\\ \n\0\xff1aPARk\x1f\x8b', np.uint8)
    for rng in cases(300, "any file"):
        path.write_bytes(rng.choice(letters, rng.integers(60)).tobytes())
        with pytest.raises(DataError, match=r"any\.jsonl"):
            tp.group_conversations(path, cache=tmp_path / "made")


@pytest.mark.parametrize("depth", [50, 900, 100_000])
def test_records_nested_without_end(depth, tmp_path):
    path = tmp_path / "deep.jsonl"
    for field in ("messages", "image", "id"):
        nested = "[" * depth + "]" * depth
        path.write_text(f'{{"question": "Q", "answer": "A", "{field}": {nested}}}')
        assert len(error_of(path)) < 2000


def test_what_a_record_holds_is_not_modified():
    turns = [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "A"}]
    record = {"messages": turns, "images": ["a.jpg", None], "conversations": None}
    before = json.dumps(record)
    read_record(record, "r")
    assert json.dumps(record) == before
