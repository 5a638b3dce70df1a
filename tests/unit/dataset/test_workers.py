"""The board on which workers note that they have begun, and who may not read the loader."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from types import SimpleNamespace

import pytest
import treepack as tp
from helpers.tree_sources import dataset
from treepack import errors
from treepack.dataset import _workers
from treepack.dataset._workers import MOST_WORKERS, Board


@pytest.fixture
def as_worker(monkeypatch):
    def set_to(is_worker):
        info = SimpleNamespace(id=0, num_workers=1) if is_worker else None
        monkeypatch.setattr(_workers, "get_worker_info", lambda: info)

    return set_to


def test_the_first_iteration_is_that_of_all_workers_once():
    board = Board()
    assert not board.has_workers
    assert [board.begin(worker, 3) for worker in (0, 2, 1)] == [True] * 3
    assert board.has_workers
    assert [board.begin(worker, 3) for worker in (0, 1, 2)] == [False] * 3
    board.clear()
    assert not board.has_workers
    assert board.begin(1, 3)
    # Another number of workers is another iteration.
    assert not board.begin(0, 2)
    assert board.begin(0, 3) is False
    assert board.begin(2, 3)


def test_the_last_worker_has_a_place_and_the_first_keeps_the_head():
    board = Board()
    assert board.begin(MOST_WORKERS - 1, MOST_WORKERS)
    assert board.begin(0, MOST_WORKERS)
    assert board.has_workers
    assert not board.is_outdated


def test_a_forked_worker_shares_the_board_and_hears_of_a_later_load():
    board = Board()
    board.note_load()
    reading, writing = os.pipe()
    back, answer = os.pipe()
    child = os.fork()
    if not child:
        before = board.is_outdated, board.begin(0, 1)
        os.read(reading, 1)
        os.write(answer, bytes([*before, board.is_outdated]))
        os._exit(0)
    try:
        # The worker has begun by the time it waits.
        while not board.has_workers:
            os.sched_yield()
        board.note_load()
        assert not board.has_workers
        os.write(writing, b"x")
        assert list(os.read(back, 3)) == [False, True, True]
        assert not board.is_outdated
    finally:
        os.waitpid(child, 0)
        for descriptor in (reading, writing, back, answer):
            os.close(descriptor)


def test_what_a_worker_does_for_itself_is_no_business_of_the_others(as_worker):
    board = Board()
    board.note_load()
    board.begin(0, 2)
    shared = board._page
    as_worker(True)
    board.note_load()
    assert board._page is not shared
    assert shared[0] == 1
    assert not board.has_workers
    assert not board.is_outdated
    as_worker(False)
    board.note_load()
    assert not board.is_outdated


def test_a_loaded_state_goes_to_the_workers_of_the_first_iteration_alone(monkeypatch):
    class Iterator:
        """A loader's, of which references may be weak."""

    board, first, second = Board(), Iterator(), Iterator()
    # A copy in this process always has it.
    assert board.send() is True
    assert not board.has_workers
    monkeypatch.setattr(_workers, "is_spawning", lambda: True)
    monkeypatch.setattr(_workers, "starting_loader", lambda: None)
    assert board.send() is True
    assert board.has_workers
    board.clear()
    assert not board.has_workers
    starting = [first, first, second, first]
    monkeypatch.setattr(_workers, "starting_loader", lambda: starting.pop(0))
    assert [board.send() for _ in range(4)] == [True, True, False, True]
    assert board.has_workers
    board.clear()
    starting.append(second)
    assert board.send() is True


def test_a_copy_of_a_board_is_a_new_one():
    board = Board()
    board.begin(0, 1)
    for other in (copy.copy(board), copy.deepcopy(board), pickle.loads(pickle.dumps(board))):
        assert type(other) is Board
        assert not other.has_workers
        assert other.begin(0, 1)


@pytest.mark.parametrize(
    ("module", "kind", "is_rejected"),
    [
        ("accelerate.data_loader", "IterableDatasetShard", True),
        ("accelerate.data_loader", "DataLoaderDispatcher", True),
        ("accelerate.data_loader", "DataLoaderShard", False),
        ("elsewhere", "IterableDatasetShard", False),
    ],
)
def test_whoever_would_shard_a_second_time_is_rejected(module, kind, is_rejected):
    scope = {"__name__": module}
    exec(f"class {kind}:\n    def read(self, stream):\n        return iter(stream)", scope)
    reader, stream = scope[kind](), dataset(n=9)
    if not is_rejected:
        assert isinstance(next(reader.read(stream)), tp.PackedBatch)
        return
    with pytest.raises(errors.DatasetError, match=r"accelerate\.prepare.*PackedTrainer"):
        reader.read(stream)


def test_a_worker_ends_when_its_parent_has(monkeypatch):
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    ended, codes = threading.Event(), []

    def end(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(_workers, "_watching", 0)
    monkeypatch.setattr(_workers, "parent_process", lambda: SimpleNamespace(pid=parent))
    monkeypatch.setattr(_workers, "os", SimpleNamespace(**{**vars(os), "_exit": end}))
    try:
        before = threading.active_count()
        _workers.end_with_parent()
        _workers.end_with_parent()
        assert threading.active_count() == before + 1
        assert codes == []
    finally:
        os.close(writing)
    assert ended.wait(60)
    os.waitpid(parent, 0)
    assert codes == [1]


def test_the_main_process_watches_nobody(monkeypatch):
    monkeypatch.setattr(_workers, "_watching", 0)
    before = threading.active_count()
    _workers.end_with_parent()
    assert threading.active_count() == before
