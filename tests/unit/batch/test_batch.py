"""A row as the model gets it."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import treepack as tp
from helpers.cases import cases
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader, default_collate
from treepack.errors import BatchError


def make_batch(**options):
    answer = tp.MessageTree([5, 6], labels=[5, 6], weight=0.5, end_target=9)
    silent = tp.MessageTree([7, 8], labels=[-100, 8], weight=[1.0, 2.0])
    media = {"pixels": np.ones((2, 3), np.float32)}
    tree = tp.MessageTree([1, 2, 3], children=[answer, silent], key="a", media=media)
    text = tp.MessageTree([4, 4], labels=[4, 4], key="b")
    return tp.collate([tree, text], **options)


def test_targets_follow_the_tree():
    batch = make_batch()
    assert batch["input_ids"].tolist() == [[1, 2, 3, 5, 6, 7, 8, 4, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 0, 1]]
    # Both branches go on from token 2; the second one's first token carries no loss.
    assert batch["logits_to_keep"].tolist() == [2, 3, 4, 5, 7]
    assert batch["targets"].tolist() == [[5, 6, 9, 8, 4]]
    assert batch["loss_weights"].tolist() == [[0.5, 0.5, 0.5, 2.0, 1.0]]
    assert batch["use_cache"] is False
    assert batch["treepack"].keys == ["a", "b"]


def test_stats_say_how_full_the_row_is():
    stats = make_batch(total=12, budgets={"tokens": 12})["treepack"].stats
    assert stats["fill_tokens"] == 9 / 12
    assert (stats["examples"], stats["branches"], stats["targets"]) == (2, 3, 5)
    assert stats["padding"] == 3
    assert all(isinstance(value, float) for value in stats.values())


def test_padding_fills_the_row_and_carries_nothing():
    batch, padded = make_batch(), make_batch(total=16)
    assert padded["input_ids"].shape == padded["position_ids"].shape == (1, 16)
    for name in ("logits_to_keep", "targets", "loss_weights"):
        assert torch.equal(batch[name], padded[name])
    assert padded["treepack"].mask.used == 9
    assert not padded["treepack"].mask.to_dense()[9:].any()


def test_a_row_that_is_too_short_is_rejected():
    with pytest.raises(BatchError, match=r"2 trees have 9 tokens, the row has room for 8"):
        make_batch(total=8)
    with pytest.raises(BatchError, match="at least one tree"):
        tp.collate([])


def test_media_that_do_not_fit_together_are_rejected():
    trees = [tp.MessageTree([1], media={"pixels": np.ones((1, n))}) for n in (2, 3)]
    with pytest.raises(BatchError, match=r"'pixels'.*\(1, 2\).*\(1, 3\)"):
        tp.collate(trees)


def test_media_with_gradients_are_rejected_in_a_row_of_several():
    trees = [tp.MessageTree([1], media={"pixels": torch.ones(1, 2, requires_grad=True)})] * 2
    with pytest.raises(BatchError, match=r"'pixels'.*grad"):
        tp.collate(trees)


def same(one, other):
    assert list(one) == list(other)
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[name].dtype
            assert torch.equal(value, other[name])
    assert one["treepack"].mask == other["treepack"].mask
    assert torch.equal(one["treepack"].plan.entries, other["treepack"].plan.entries)
    assert torch.equal(one["treepack"].plan.host, other["treepack"].plan.host)
    assert one["treepack"].stats == other["treepack"].stats
    for name in ("target_node", "target_example"):
        a, b = (getattr(batch["treepack"], name) for batch in (one, other))
        assert a.dtype == b.dtype == np.int64
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize(
    ("trees", "says"),
    [
        (tp.MessageTree([1]), r"got a MessageTree.*\[tree\]"),
        (7, "got a int"),
        ([[1, 2]], "MessageTree, got list"),
        ([tp.MessageTree([1], key="good"), {"a": 1}], "MessageTree, got dict.*place 1"),
        ([], "at least one tree"),
    ],
)
def test_what_is_no_list_of_trees_is_rejected(trees, says):
    with pytest.raises(BatchError, match=says):
        tp.collate(trees)


def test_trees_may_come_from_anywhere():
    trees = [tp.MessageTree([1, 2], labels=[1, 2], key=i) for i in range(3)]
    same(tp.collate(iter(trees)), tp.collate(trees))


def test_windows_are_a_list():
    with pytest.raises(BatchError, match=r"sliding_windows is 4.*hf\.sliding_windows\(model\)"):
        make_batch(sliding_windows=4)


def slow_owners(trees):
    """Token by token: whose token is predicted."""
    nodes, examples, number = [], [], 0
    for example, tree in enumerate(trees):
        for node, parent in tree.nodes():
            labels = [] if node.labels is None else node.labels.tolist()
            for place, label in enumerate(labels):
                if label != -100 and (place or parent >= 0):
                    nodes.append(number)
                    examples.append(example)
            if node.end_target is not None:
                nodes.append(number)
                examples.append(example)
            number += 1
    return nodes, examples


def random_tree(rng, depth=0):
    n = int(rng.integers(depth == 0, 5))
    children = [random_tree(rng, depth + 1) for _ in range(rng.integers(0, 3 - depth))]
    labels = rng.choice([-100, -100, 0, 7], n) if rng.random() < 0.7 else None
    end = int(rng.integers(9)) if rng.random() < 0.5 else None
    return tp.MessageTree(rng.integers(0, 9, n), labels, 1.0, end, children)


def test_every_target_says_which_node_and_example_it_is_of():
    several = 0
    for rng in cases(1000, "target owners"):
        trees = [random_tree(rng) for _ in range(rng.integers(1, 4))]
        batch = tp.collate(trees, total=99)
        row = batch["treepack"]
        nodes, examples = slow_owners(trees)
        assert row.target_node.tolist() == nodes
        assert row.target_example.tolist() == examples
        assert len(nodes) == len(batch["logits_to_keep"])
        # The predictor is the node's own token, or the last of an ancestor.
        for node, position in zip(nodes, batch["logits_to_keep"].tolist(), strict=True):
            assert position < row.mask.subtree_end[node]
        several += len(set(nodes)) > len(trees)
    assert several > 100


def test_log_probabilities_can_be_summed_for_each_response():
    answers = [tp.MessageTree([5] * n, labels=[5] * n) for n in (1, 4, 2)]
    batch = tp.collate([tp.MessageTree([1, 2], children=answers)] * 2)
    row = batch["treepack"]
    scores = torch.full((len(row.target_node),), 0.5, dtype=torch.float64)
    sums = torch.zeros(row.mask.n_nodes, dtype=torch.float64)
    sums = sums.index_add(0, torch.from_numpy(row.target_node), scores)
    assert sums.tolist() == [0, 0.5, 2, 1] * 2
    assert np.bincount(row.target_example).tolist() == [7, 7]
    for moved in (batch.to("meta"), pickle.loads(pickle.dumps(batch)), copy.copy(batch)):
        assert moved["treepack"].target_node.tolist() == row.target_node.tolist()


def test_pickling_keeps_everything():
    batch = make_batch(total=12)
    batch["half"] = torch.ones(3, dtype=torch.bfloat16)
    batch["empty"] = torch.ones(0, 4)
    batch["scalar"] = torch.tensor(3)
    batch["large"] = torch.rand(300, 300)
    same(batch, pickle.loads(pickle.dumps(batch)))


def test_small_tensors_cross_a_process_border_in_one_piece():
    # Tensors that go through torch's reducers each cost a shared file; count what is left to them.
    class Counting(pickle.Pickler):
        tensors = 0

        def reducer_override(self, value):
            self.tensors += isinstance(value, torch.Tensor)
            return NotImplemented

    batch = make_batch()
    pickler = Counting(io.BytesIO())
    pickler.dump(batch)
    assert pickler.tensors == 0
    batch["large"] = torch.rand(300, 300)
    pickler = Counting(io.BytesIO())
    pickler.dump(batch)
    assert pickler.tensors == 1


def test_to_moves_the_plan_and_casts_inputs_but_not_weights():
    batch = make_batch()
    moved = batch.to("cpu", dtype=torch.bfloat16)
    assert moved["pixels"].dtype == torch.bfloat16
    assert moved["loss_weights"].dtype == torch.float32
    assert moved["input_ids"].dtype == torch.int64
    assert type(moved) is type(batch)
    assert batch["pixels"].dtype == torch.float32
    with pytest.raises(BatchError, match=r"dtype=torch\.int32.*floating"):
        batch.to(torch.int32)
    with pytest.raises(BatchError, match=r"dtype=True.*non_blocking=True"):
        batch.to("cpu", True)
    meta = batch.to("meta")
    assert meta["input_ids"].is_meta
    assert meta["treepack"].plan.entries.is_meta
    assert not meta["treepack"].plan.host.is_meta


HALF = torch.bfloat16


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        (("meta",), {}),
        ((torch.device("meta"),), {"non_blocking": True}),
        (("meta", HALF), {}),
        (("meta", HALF, True), {}),
        (("meta", None, True), {}),
        ((HALF,), {}),
        ((HALF,), {"non_blocking": True}),
        ((), {"dtype": HALF}),
        ((), {"device": "meta", "dtype": HALF, "non_blocking": True}),
        ((), {}),
    ],
)
def test_a_batch_moves_as_a_tensor_does(positional, named):
    batch = make_batch(sliding_windows=[2])
    moved = batch.to(*positional, **named)
    tensor = batch["pixels"].to(*positional, **named) if positional or named else batch["pixels"]
    assert (moved["pixels"].device, moved["pixels"].dtype) == (tensor.device, tensor.dtype)
    row = moved["treepack"]
    for part in (
        moved["input_ids"],
        moved["loss_weights"],
        row.plan.entries,
        row.plan_for(2).entries,
    ):
        assert part.device == tensor.device
    assert moved["loss_weights"].dtype == torch.float32
    assert type(moved) is tp.PackedBatch


def test_a_copy_is_a_batch_and_shares_its_tensors():
    batch = make_batch()
    for other in (copy.copy(batch), batch.copy()):
        assert type(other) is tp.PackedBatch
        assert other is not batch
        assert all(other[name] is value for name, value in batch.items())


def test_the_default_collate_gives_the_batch_itself_and_joins_no_two():
    batch = make_batch()
    assert default_collate([batch]) is batch
    with pytest.raises(BatchError, match=r"2 rows.*batch_size=None"):
        default_collate([batch, batch])
    dataset = tp.PackedDataset([tp.MessageTree([1, 2])] * 4, budgets={"tokens": 4})
    assert [type(one) for one in DataLoader(dataset, batch_size=1)] == [tp.PackedBatch] * 2
    with pytest.raises(BatchError, match="batch_size=None"):
        next(iter(DataLoader(dataset, batch_size=2)))


def test_a_batch_is_shown_by_names_and_shapes():
    media = {"pixels": np.ones((200, 3), np.float32)}
    trees = [tp.MessageTree([1] * 500, media=media, key=f"long {i}") for i in range(40)]
    batch = tp.collate(trees)
    batch["note"] = "x" * 1000
    shown = repr(batch)
    assert "input_ids: int64 [1, 20000]" in shown
    assert "pixels: float32 [8000, 3]" in shown
    assert "use_cache: False" in shown
    assert "examples=40" in shown
    assert len(shown) < 800
    assert "'long 0'" in repr(batch["treepack"])
    assert "pixels: float32 [8000, 3] on meta" in repr(batch.to("meta"))


def window_row(n):
    return tp.collate([tp.MessageTree([1] * n, children=[tp.MessageTree([2] * 3)] * 2)])["treepack"]


def attend_with(backend, **options):
    """A compiled function that needs a plan, or blocks, for a window; and its counter."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, **options)
    def attend(x, row):
        x = x.sin()
        return tp.tree_attention(x, x, x, row, window=3, backend=backend) + 1

    return attend, counter


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("backend", [None, "flex"])
def test_a_graph_without_its_plan_says_where_plans_are_made(backend):
    attend, _ = attend_with(backend, fullgraph=True)
    row, x = window_row(9), torch.randn(15, 2, 16)
    says = "window of 3 tokens.*" + (r"blocks_for\(3\)" if backend else r"hf\.sliding_windows")
    with pytest.raises(Exception, match=says) as caught:
        attend(x, row)
    assert "AttentionError" in str(caught.value)
    (row.blocks_for if backend else row.plan_for)(3)
    expected = tp.tree_attention(*[x.sin()] * 3, row, window=3, backend=backend) + 1
    torch.testing.assert_close(attend(x, row), expected)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:flex_attention called without", "ignore:.*non-leaf Tensor")
@pytest.mark.parametrize("backend", [None, "flex"])
def test_a_compiled_function_that_may_break_makes_the_plan_by_itself(backend):
    attend, counter = attend_with(backend)
    frames = []
    for n in (9, 12, 20, 9, 14, 11):
        row, x = window_row(n), torch.randn(n + 6, 2, 16)
        expected = tp.tree_attention(*[x.sin()] * 3, window_row(n), window=3, backend=backend) + 1
        torch.testing.assert_close(attend(x, row), expected)
        frames.append(counter.frame_count)
    assert frames[-1] == frames[2]
    torch._dynamo.reset()


def test_making_plans_does_not_load_the_compiler():
    script = """
import sys
import treepack as tp
row = tp.collate([tp.MessageTree([1] * 9)], sliding_windows=[4])["treepack"]
row.plan_for(3), row.to("cpu").plan_for(2)
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
