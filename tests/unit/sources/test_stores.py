"""The same records give the same examples, in whatever kind of file they lie."""

from __future__ import annotations

import gzip
import io
import json
import logging
import pickle
import shutil
import sys
import tarfile

import PIL.Image
import pytest
import treepack as tp
from treepack.errors import DataError, DatasetError, MissingPackageError

pa = pytest.importorskip("pyarrow")

N = 150
RECORDS = [
    {
        "id": f"é{i}",
        "image": f"{i % 40}.jpg",
        "conversations": [
            {"from": "human", "value": f"<image>\n{i}?"},
            {"from": "gpt", "value": "ä" * (i % 7) + str(i)},
        ],
    }
    for i in range(N)
]


def png(value):
    out = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (value,) * 3).save(out, "png")
    return out.getvalue()


def lines(records):
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in records).encode() + b"\n"


def write_jsonl(path):
    path.write_bytes(lines(RECORDS))


def write_json(path):
    path.write_text(json.dumps(RECORDS, ensure_ascii=False, indent=1), "utf-8")


def write_gz(path):
    path.write_bytes(gzip.compress(lines(RECORDS)))


def write_json_gz(path):
    path.write_bytes(gzip.compress(json.dumps(RECORDS).encode()))


def write_parquet(path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=50)


def write_arrow(path):
    table = pa.Table.from_pylist(RECORDS)
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=40)


def write_stream(path):
    table = pa.Table.from_pylist(RECORDS)
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=40)


def write_saved(path):
    """What ``datasets`` 5 writes: streams, and which entries are records."""
    path.mkdir()
    (path / "state.json").write_text(
        json.dumps(
            {
                "_data_files": [{"filename": f"data-{i}.arrow"} for i in range(2)],
                "_indices_files": None,
            }
        )
    )
    for i, part in enumerate((RECORDS[:70], RECORDS[70:])):
        table = pa.Table.from_pylist(part)
        out = str(path / f"data-{i}.arrow")
        with pa.OSFile(out, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)


KINDS = {
    "r.jsonl": write_jsonl,
    "r.json": write_json,
    "r.jsonl.gz": write_gz,
    "r.json.gz": write_json_gz,
    "r.parquet": write_parquet,
    "r.arrow": write_arrow,
    "stream.arrow": write_stream,
    "saved": write_saved,
}


def contents(source):
    return [(e.key, e.branches, e.media) for e in source]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_reads_like_the_records_in_it(kind, tmp_path):
    path = tmp_path / kind
    KINDS[kind](path)
    expected = contents(tp.group_conversations(RECORDS, images=tmp_path))
    source = tp.group_conversations(path)
    assert contents(source) == expected
    assert contents(pickle.loads(pickle.dumps(source))) == expected
    assert len(pickle.dumps(source)) < 40 * N
    assert str(path) in source.store.name(3)
    assert contents(tp.group_conversations(str(path))) == expected  # the cache is there now


def test_several_files_are_one(tmp_path):
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(lines(RECORDS[i * 50 : i * 50 + 50]))
    expected = contents(tp.group_conversations(RECORDS, images=tmp_path))
    for records in (paths, [str(path) for path in paths], tmp_path / "*.jsonl"):
        source = tp.group_conversations(records)
        assert contents(source) == expected
        assert source.store.name(120) == f"{paths[2]}:21"
    (tmp_path / "sub").mkdir()
    moved = shutil.copy(paths[0], tmp_path / "sub" / "0.jsonl")
    with pytest.raises(DatasetError, match=r"lie in 2 folders; say where .* with images="):
        tp.group_conversations([paths[1], moved])


def test_a_list_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("treepack.sources.stores.lines.CHUNK", 7)
    test_every_kind_of_file_reads_like_the_records_in_it("r.json", tmp_path)


@pytest.mark.parametrize("text", ["[1, 2", "[1 2]", "[1,]", "[1], 2", '["a', "[" * 100_000])
def test_a_list_that_is_none_is_named(text, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"r.json: is not JSON: "):
        tp.group_conversations(path, on_error="skip")


# --- caches


def test_a_cache_is_made_once_and_again_when_the_file_changes(tmp_path, caplog):
    caplog.set_level(logging.INFO, "treepack")
    path, cache = tmp_path / "r.parquet", tmp_path / "made" / "here"
    write_parquet(path)
    for _ in range(2):
        tp.group_conversations(path, cache=cache)
    (made,) = cache.iterdir()
    assert {p.name for p in tmp_path.iterdir()} == {"r.parquet", "made"}
    (message,) = [r.message for r in caplog.records]
    assert message == f"{path}: its Arrow form is written to {made}"
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.Table.from_pylist(RECORDS[:60]), path)
    assert sum(len(e.branches) for e in tp.group_conversations(path, cache=cache)) == 60
    assert len(list(cache.iterdir())) == 2


def test_a_cache_is_never_half_written(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(lines(RECORDS))[:-20])
    with pytest.raises(DataError, match=r"r.jsonl.gz: cannot be unpacked"):
        tp.group_conversations(path)
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl.gz"]
    write_gz(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(DataError, match=r"No space left on device; name a folder .* cache="):
        tp.group_conversations(path)
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl.gz"]


def test_a_file_that_changes_after_grouping_is_an_error(tmp_path):
    path = tmp_path / "r.jsonl"
    write_jsonl(path)
    source = tp.group_conversations(path)
    path.write_bytes(lines(RECORDS[::-1]) + b"\n")
    with pytest.raises(DataError, match="has changed since its records were grouped"):
        source[0]


def test_an_extra_that_is_missing_is_named(tmp_path, monkeypatch):
    write_parquet(tmp_path / "r.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"needs pyarrow: pip install 'treepack\[data\]'"):
        tp.group_conversations(tmp_path / "r.parquet")


# --- what is none


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"PK\x03\x04 zip", "of no known kind, it begins with"),
        (b"\x89PNG\0\0", "of no known kind"),
        (b"PAR1 cut off", "cannot be read"),
        (b"ARROW1\0\0 cut off", "cannot be read"),
    ],
)
def test_files_of_no_known_kind_are_named(head, says, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(head)
    with pytest.raises(DataError, match=f"file.bin.*{says}"):
        tp.group_conversations(path)


def test_folders_are_saved_data_sets_or_named(tmp_path):
    with pytest.raises(DataError, match=r"no data set was saved in; .*\*.parquet"):
        tp.group_conversations(tmp_path)
    write_saved(tmp_path / "train")
    with pytest.raises(DataError, match=r"holds the data sets \['train'\]; name one"):
        tp.group_conversations(tmp_path)
    state = {"_data_files": [], "_indices_files": [{"filename": "indices.arrow"}]}
    (tmp_path / "train" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="as a selection of its entries; load it"):
        tp.group_conversations(tmp_path / "train")
    (tmp_path / "train" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"its state.json is not one"):
        tp.group_conversations(tmp_path / "train")


# --- undecoded images


def test_images_in_parquet_stay_encoded_and_are_grouped_by_contents(tmp_path):
    import pyarrow.parquet

    images = [{"bytes": png(v), "path": f"{n}.png"} for n, v in enumerate((1, 2, 1))]
    records = [{"image": i, "question": str(n), "answer": "!"} for n, i in enumerate(images)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), tmp_path / "r.parquet")
    source = tp.group_conversations(tmp_path / "r.parquet")
    assert [len(e.branches) for e in source] == [2, 1]
    assert source[0].media[0].value == png(1)
    assert [e.key for e in source] == ["0.png", "1.png"]


def test_a_sequence_whose_items_fail_loses_only_those():
    class Broken(list):
        def __getitem__(self, index):
            if index == 1:
                raise KeyError("no such shard")
            return super().__getitem__(index)

    with pytest.raises(DataError, match="record 1: cannot be read: KeyError: 'no such shard'"):
        tp.group_conversations(Broken(RECORDS))
    assert tp.group_conversations(Broken(RECORDS), on_error="skip").skipped == 1


def test_a_data_set_keeps_its_images_encoded_and_its_choice_of_columns():
    datasets = pytest.importorskip("datasets")
    image = {"bytes": png(1), "path": None}
    rows = {"image": [image] * 2, "question": ["A", "B"], "answer": ["!"] * 2, "caption": ["C"] * 2}
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    chosen = dataset.with_format(columns=["image", "question", "answer"]).select([1, 0])
    source = tp.group_conversations(chosen)
    assert [b[0].question for b in source[0].branches] == ["B", "A"]
    assert source[0].media[0].value == png(1)
    plain = dataset.remove_columns("caption")
    (decoded,) = tp.group_conversations(plain.with_transform(lambda rows: rows))
    assert isinstance(decoded.media[0].value, PIL.Image.Image)
    with pytest.raises(DatasetError, match=r"has the splits \['train'\]; pass one"):
        tp.group_conversations(datasets.DatasetDict(train=dataset))


# --- archives


def write_tar(path, samples):
    with tarfile.open(path, "w") as archive:
        for name, content in samples.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


TURNS = json.dumps(RECORDS[0]["conversations"]).encode()
SAMPLES = {
    "a/000.jpg": b"one",
    "a/000.json": json.dumps({**RECORDS[0], "image": "x.jpg"}).encode(),
    "a/001.png": b"two",
    "a/001.txt": b"A cat.",
    "b/000.json": TURNS,
    "b/000.jpg": b"one",
    "b/001.mp4": b"film",
    "b/001.json": json.dumps({"question": "Who?", "answer": "He."}).encode(),
}


@pytest.mark.parametrize("packs", [False, True])
def test_samples_of_an_archive_are_records(packs, tmp_path):
    path = tmp_path / "shard-000.tar"
    write_tar(path, SAMPLES)
    if packs:
        packed = tmp_path / "shard-000.tar.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    source = tp.group_conversations(path)
    assert [e.key for e in source] == ["a/000.jpg", "a/001.png", "b/001.mp4"]
    assert [[m.value for m in e.media] for e in source] == [[b"one"], [b"two"], [b"film"]]
    assert [len(e.branches) for e in source] == [2, 1, 1]
    assert source[1].branches[0][0] == ("", "A cat.", 1.0)
    assert source[2].media[0].kind == "video"
    assert source.store.name(2) == f"{path}, sample b/000"
    again = pickle.loads(pickle.dumps(tp.group_conversations(path)))
    assert contents(again) == contents(source)


def test_one_bad_sample_does_not_take_the_others_along(tmp_path):
    path = tmp_path / "s.tar"
    bad = {"c.json": b"{", "d.txt": b"\xff", "e.jpg": b"x", "f.wav": b"x", "f.txt": b"x"}
    write_tar(path, {**SAMPLES, **bad})
    source = tp.group_conversations(path, on_error="skip")
    assert (source.skipped, len(source)) == (4, 3)
    with pytest.raises(DataError, match=r"s.tar, sample c: its json is not JSON"):
        tp.group_conversations(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"s.tar"):
        tp.group_conversations(path)
