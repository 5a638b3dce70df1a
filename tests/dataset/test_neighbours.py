"""Other people's loaders and data sets: what each can do, exactly."""

from __future__ import annotations

import itertools
import json

import pytest
import treepack as tp
from helpers.tree_sources import BUDGETS, dataset, names, tree_of
from torch.utils.data import DataLoader
from treepack import errors
from treepack.testing import check_exactly_once, check_resume_everywhere


class Rows:
    """Stands for a model family: turns a row ``{"index": i}`` into a tree."""

    name = "rows"
    costs = ("tokens", "crops")
    bidirectional = "none"

    def measure(self, row):
        return tree_of(self.index(row)).cost

    def load(self, row):
        return tree_of(self.index(row))

    def collate(self, trees, total):
        from treepack.batch import concatenate_media

        return concatenate_media(trees)

    def position_ids(self, positions):
        return positions

    def index(self, row):
        return int(row.branches[0][0].question)


def row(index):
    """A conversation that names its example."""
    turns = [{"from": "human", "value": str(index)}, {"from": "gpt", "value": "yes"}]
    return {"conversations": turns}


def packed(source, **options):
    return tp.PackedDataset(source, family=Rows(), budgets=BUDGETS, pool_size=6, **options)


def keys_of(batches):
    return [batch["treepack"].keys for batch in batches]


# torchdata


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:'set_vital'")
def test_stateful_dataloader_at_every_step(workers):
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def load():
        stream = dataset(n=60, virtual_shards=4)
        return torchdata.StatefulDataLoader(stream, batch_size=None, num_workers=workers)

    loader, states, keys = load(), [], []
    for batch in loader:
        states.append(loader.state_dict())
        keys.append(batch["treepack"].keys)
    for n in range(0, len(states), 3):
        other = load()
        other.load_state_dict(states[n])
        assert keys_of(other) == keys[n + 1 :]
    # Each has its own way of telling workers where to begin, and leaves none behind.
    assert keys_of(other) == keys
    assert keys_of(DataLoader(other.dataset, batch_size=None, num_workers=workers)) == keys


# Hugging Face datasets


def hugging_face(n=60, num_shards=4):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list([row(i) for i in range(n)]), num_shards


def test_a_dataset_is_read_by_index():
    source, _ = hugging_face()
    stream = packed(source, virtual_shards=2)
    check_exactly_once(stream, names(60))
    assert check_resume_everywhere(stream, every=4) > 3


@pytest.mark.parametrize("num_shards", [4, 1])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_resumes_through_its_own_state(num_shards, workers):
    source, _ = hugging_face()
    stream = packed(source.to_iterable_dataset(num_shards), virtual_shards=4)
    check_exactly_once(stream, names(60), num_workers=workers)
    assert check_resume_everywhere(stream, every=4, num_workers=workers) > 3


def test_an_upstream_shuffle_buffer_is_rejected():
    source, _ = hugging_face()
    shuffled = source.to_iterable_dataset(2).shuffle(seed=1, buffer_size=9).map(dict)
    stream = packed(shuffled)
    check_exactly_once(stream, names(60))
    with pytest.raises(errors.StateError, match="shuffles in a buffer"):
        stream.state_dict()


# webdataset, mosaicml-streaming


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_is_read_once_and_cannot_go_back(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "data.tar")) as sink:
        for i in range(30):
            sink.write({"__key__": str(i), "json": row(i)})
    source = webdataset.WebDataset(str(tmp_path / "data.tar"), shardshuffle=False)
    stream = packed(source.decode().map(_json_part), virtual_shards=2)
    for workers in (0, 2):
        check_exactly_once(stream, names(30), num_workers=workers)
    with pytest.raises(errors.StateError, match="without state_dict and load_state_dict"):
        stream.state_dict()


def _json_part(sample):
    return sample["json"]


def test_mosaicml_streaming_is_read_by_index(tmp_path):
    streaming = pytest.importorskip("streaming")
    with streaming.MDSWriter(out=str(tmp_path), columns={"conversations": "json"}) as sink:
        for i in range(30):
            sink.write(row(i))
    stream = packed(streaming.StreamingDataset(local=str(tmp_path), batch_size=1))
    check_exactly_once(stream, names(30))
    assert check_resume_everywhere(stream, every=4) > 1


# accelerate


@pytest.mark.filterwarnings("ignore")
def test_a_loader_that_accelerate_prepared_is_rejected():
    data_loader = pytest.importorskip("accelerate.data_loader")
    loader = DataLoader(dataset(), batch_size=1, collate_fn=_only)
    sharded = data_loader.IterableDatasetShard(dataset(), num_processes=2, process_index=0)
    prepared = data_loader.prepare_data_loader(
        loader, num_processes=2, process_index=1, dispatch_batches=False
    )
    sliced = data_loader.prepare_data_loader(loader, num_processes=1, put_on_device=True)
    for twice in (sharded, prepared, sliced):
        with pytest.raises(errors.DatasetError, match=r"accelerate.prepare"):
            next(iter(twice))
    alone = data_loader.prepare_data_loader(loader, num_processes=1, dispatch_batches=False)
    assert len(list(itertools.islice(alone, 3))) == 3


def _only(batches):
    (batch,) = batches
    return batch


# torch.distributed.checkpoint


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoint_keeps_the_state(tmp_path):
    import torch.distributed.checkpoint as dcp

    stream = dataset(virtual_shards=3)
    first = keys_of(itertools.islice(stream, 10))
    dcp.save({"loader": stream}, checkpoint_id=tmp_path, no_dist=True)
    other = dataset(virtual_shards=3)
    dcp.load({"loader": other}, checkpoint_id=tmp_path, no_dist=True)
    assert first + keys_of(other) == keys_of(dataset(virtual_shards=3))
    assert json.loads(json.dumps(stream.state_dict())) == stream.state_dict()
