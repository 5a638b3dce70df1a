"""What `TreeMask` accepts and rejects, and that its objects behave."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
import treepack as tp
from treepack.errors import TreeError

LENGTHS, PARENTS, TOTAL = [6, 4, 3], [-1, 0, 0], 14


def build(lengths=LENGTHS, parents=PARENTS, runs=None, mode="none", total=TOTAL):
    return tp.TreeMask.from_nodes(lengths, parents, runs, mode, total)


def rejected(*words, **row):
    """The row is rejected with a message that says each of the words."""
    with pytest.raises(TreeError) as caught:
        build(**row)
    for word in words:
        assert word in str(caught.value)


# Nodes


def test_lengths_and_parents_of_different_length():
    rejected("3 lengths", "2 parents", parents=[-1, 0])


def test_no_nodes():
    rejected("at least one node", lengths=[], parents=[], total=None)


def test_negative_length():
    rejected("node 1", "-4", lengths=[6, -4, 3])


def test_empty_root():
    rejected("node 0", "at least one", lengths=[0, 4, 3])


def test_parent_below_minus_one():
    rejected("node 1", "parent -2", "-1", parents=[-1, -2, 0])


def test_parent_after_child():
    rejected("node 1", "parent 2", "before", parents=[-1, 2, 0])


def test_parent_is_the_node_itself():
    rejected("node 1", "parent 1", parents=[-1, 1, 0])


def test_first_node_is_not_a_root():
    rejected("node 0", "parent 0", parents=[0, 0, 0])


def test_not_preorder():
    rejected("node 3", "parent 1", "depth first", lengths=[6, 4, 3, 2], parents=[-1, 0, 0, 1])


def test_node_of_an_earlier_example():
    rejected("node 2", "parent 0", "depth first", parents=[-1, -1, 0])


def test_total_too_small():
    rejected("13 tokens", "total is 12", "raise total", total=12)


def test_row_too_long_for_int32():
    rejected("2147483648", "2147483647", "split", lengths=[2**31 - 1, 1, 0], total=None)


def test_total_too_long_for_int32():
    rejected("2147483648", "2147483647", total=2**31)


def test_sum_of_lengths_beyond_int64():
    rejected("2147483647", lengths=[2**62, 2**62, 2**62])


# Image runs


def test_empty_run():
    rejected("run 1", "[4, 4)", runs=[[0, 2, 0], [4, 4, 1]])


def test_backward_run():
    rejected("run 0", "[4, 2)", runs=[[4, 2, 0]])


def test_run_before_the_row():
    rejected("run 0", "[-1, 2)", "14 tokens", runs=[[-1, 2, 0]])


def test_run_beyond_the_row():
    rejected("run 0", "[3, 15)", "14 tokens", runs=[[3, 15, 0]])


def test_run_in_the_padding():
    rejected("run 0", "[12, 14)", "13", runs=[[12, 14, 0]])


def test_run_across_nodes():
    rejected("run 0", "[5, 7)", "node 0 ends at 6", runs=[[5, 7, 0]])


def test_unsorted_runs():
    rejected("run 1", "starts at 1", "sort", runs=[[3, 4, 0], [1, 2, 1]])


def test_overlapping_runs():
    rejected("run 1", "starts at 2", "ends at 3", runs=[[1, 3, 0], [2, 4, 1]])


@pytest.mark.parametrize("mode", ["none", "image_tokens", "within_image"])
def test_one_image_in_two_nodes(mode):
    rejected("image 5", "node 0", "node 1", runs=[[0, 2, 5], [6, 8, 5]], mode=mode)


def test_interleaved_images():
    runs = [[0, 1, 8], [1, 2, 9], [2, 3, 8], [3, 4, 9]]
    rejected("image 9", "image 8", "run 3", runs=runs, mode="within_image")


def test_modes_that_do_not_group_ignore_interleaving():
    runs = [[0, 1, 8], [1, 2, 9], [2, 3, 8], [3, 4, 9]]
    assert build(runs=runs) == build()
    assert build(runs=runs, mode="image_tokens") == build(runs=[[0, 4, 0]], mode="image_tokens")


def test_runs_are_checked_even_where_they_are_ignored():
    rejected("run 0", runs=[[5, 7, 0]], mode="none")


@pytest.mark.parametrize("mode", ["causal", "NONE", "", None, 3])
def test_unknown_mode(mode):
    rejected(str(mode), "image_tokens", "within_image", mode=mode)


# Types and shapes


@pytest.mark.parametrize("name", ["lengths", "parents", "runs"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bool", "complex128", "datetime64[s]"])
def test_wrong_dtype(name, dtype):
    row = {"lengths": LENGTHS, "parents": PARENTS, "runs": [[0, 2, 0]]}
    row[name] = np.zeros_like(row[name]).astype(dtype)
    rejected(dtype, "must be integers", **row)


@pytest.mark.parametrize("value", [[1.5], ["1"], [None], [2**70], [[1], [1, 2]], "1", {1: 2}])
def test_things_that_are_not_integers(value):
    rejected("lengths", lengths=value, parents=[-1], total=None)


@pytest.mark.parametrize("value", [3, [[1]], np.ones((1, 1), int)])
def test_wrong_number_of_axes(value):
    rejected("lengths", "shape", "[n]", lengths=value, parents=[-1], total=None)


@pytest.mark.parametrize("runs", [[0, 2, 0], [[0, 2]], np.zeros((0, 2), int), 7])
def test_wrong_shape_of_runs(runs):
    rejected("image_runs", "[n, 3]", runs=runs)


def test_unsigned_beyond_int64():
    rejected("lengths", "int64", lengths=np.array([2**63, 4, 3], np.uint64))


@pytest.mark.parametrize("total", [14.0, "14", True, np.True_, 2**64, [14]])
def test_total_that_is_not_an_integer(total):
    rejected("total must be an integer", total=total)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", ">i4", ">i8", "u1", "u4", "u8"])
def test_every_integer_dtype(dtype):
    lengths, runs = np.array(LENGTHS, dtype), np.array([[0, 2, 0]], dtype)
    assert build(lengths=lengths, runs=runs, mode="within_image", total=np.int32(14)) == build(
        runs=[[0, 2, 0]], mode="within_image"
    )


def test_every_layout():
    runs = np.array([[0, 2, 0], [2, 4, 1], [7, 8, 2]])
    raw = np.frombuffer(b"x" + np.array(LENGTHS).tobytes(), np.uint8)[1:]
    unaligned = raw.view(np.int64)
    strided = np.repeat(PARENTS, 2)[::2]
    expected = build(runs=runs.tolist(), mode="within_image")
    for layout in (np.asfortranarray(runs), np.repeat(runs, 2, 0)[::2], runs[:, ::-1][:, ::-1]):
        assert build(unaligned, strided, layout, "within_image") == expected


@pytest.mark.parametrize("runs", [None, [], (), np.zeros((0, 3), int)])
def test_no_runs(runs):
    assert build(runs=runs, mode="image_tokens").group_ptr.tolist() == [0]


def test_inputs_are_neither_modified_nor_kept():
    arrays = [np.array(LENGTHS), np.array(PARENTS), np.array([[0, 2, 0]])]
    before = [array.copy() for array in arrays]
    mask = build(*arrays, "within_image")
    mask.plan(), mask.positions()
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, old)
        array[...] = 99
    assert mask == build(runs=[[0, 2, 0]], mode="within_image")


def test_read_only_inputs():
    lengths = np.array(LENGTHS)
    lengths.flags.writeable = False
    assert build(lengths=lengths) == build()


# Methods


@pytest.mark.parametrize("token", [-1, 14, 2**70])
def test_visible_outside_the_row(token):
    for pair in ((token, 0), (0, token)):
        with pytest.raises(TreeError, match=str(token)):
            build().visible(*pair)


def test_dense_mask_beyond_memory():
    with pytest.raises(TreeError, match="2147483647"):
        build(total=2**31 - 1).to_dense()


@pytest.mark.parametrize("shape", [(13,), (14,), (1, 13), (0, 14), (1, 1, 14)])
def test_root_positions_of_another_shape(shape):
    with pytest.raises(TreeError, match="root_positions"):
        build().positions(np.zeros(shape, np.int64))


def test_root_positions_of_another_dtype():
    with pytest.raises(TreeError, match="root_positions must be integers, got float64"):
        build().positions(np.zeros((1, 14)))


def test_positions_beyond_int64():
    with pytest.raises(TreeError, match=r"node 1.*axis 1"):
        build().positions([[0] * 14, [2**63 - 1] * 14])


def test_runs_that_touch_are_one_run():
    runs = [[0, 2, 8], [2, 3, 8], [3, 5, 9]]
    assert build(runs=runs, mode="within_image").run_end.tolist() == [3, 5]
    assert build(runs=runs, mode="image_tokens").run_end.tolist() == [5]


def test_nested_images():
    runs = [[0, 1, 8], [1, 2, 9], [3, 4, 9], [4, 5, 8]]
    mask = build(runs=runs, mode="within_image")
    assert mask.run_start.tolist() == [0, 4, 1, 3]
    assert mask.group_ptr.tolist() == [0, 2, 4]
    assert mask.visible(0, 4)
    assert mask.visible(1, 3)
    assert not mask.visible(1, 4)
    assert not mask.visible(0, 3)


def test_arrays_are_new_on_each_access():
    mask = build(runs=[[0, 2, 0]], mode="within_image")
    plan = mask.plan()[0].copy()
    for array in (mask.node_start, mask.group_ptr, mask.key_end, *mask.plan(), mask.positions()):
        array[...] = -7
    assert mask == build(runs=[[0, 2, 0]], mode="within_image")
    assert np.array_equal(mask.plan()[0], plan)


def test_masks_are_immutable():
    mask = build()
    for name in ("total", "key_lo", "another"):
        with pytest.raises(AttributeError):
            setattr(mask, name, 1)
    with pytest.raises(TypeError):
        tp.TreeMask()


def test_equality_and_hash():
    assert build() == build(np.array(LENGTHS, np.int32), tuple(PARENTS))
    assert hash(build()) == hash(build())
    for other in (build(total=13), build(mode="image_tokens"), build([6, 3, 4]), "mask", None):
        assert build() != other
    assert len({build(), build(), build(total=13)}) == 2


def test_image_numbers_are_only_names():
    ours, theirs = ([[0, 2, image], [3, 4, image]] for image in (0, -(2**60)))
    assert build(runs=ours, mode="within_image") == build(runs=theirs, mode="within_image")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("mode", ["none", "image_tokens", "within_image"])
def test_pickle(protocol, mode):
    mask = build(runs=[[0, 1, 8], [1, 2, 9], [4, 5, 8]], mode=mode)
    assert pickle.loads(pickle.dumps(mask, protocol)) == mask


def test_a_pickle_does_not_grow_with_the_tokens():
    assert len(pickle.dumps(build(total=2**31 - 1))) < 600


def test_copies():
    mask = build(runs=[[0, 2, 0]], mode="within_image")
    assert copy.copy(mask) == copy.deepcopy(mask) == mask


def test_weak_references():
    mask = build()
    reference = weakref.ref(mask)
    assert reference() is mask
    del mask
    gc.collect()
    assert reference() is None


def test_repr():
    text = repr(build(runs=[[0, 2, 0]], mode="within_image"))
    expected = "examples=1, nodes=3, used=13, total=14, bidirectional='within_image', area=80"
    assert text == f"TreeMask({expected})"


def test_one_mask_in_many_threads():
    mask = build(runs=[[0, 2, 0], [3, 5, 0]], mode="within_image", total=5000)
    expected = [mask.key_lo, *mask.plan(), mask.positions()]
    wrong = []

    def use():
        for _ in range(50):
            found = [mask.key_lo, *mask.plan(), mask.positions()]
            wrong.extend(not np.array_equal(a, b) for a, b in zip(found, expected, strict=True))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 4 * 50 * 4
    assert not any(wrong)


def test_a_chain_of_a_hundred_thousand_nodes():
    n = 100_000
    mask = tp.TreeMask.from_nodes(np.ones(n, np.int32), np.arange(-1, n - 1))
    assert mask.area == n * (n + 1) // 2
    assert mask.node_depth[-1] == n - 1
    assert mask.positions()[0, -1] == n - 1
    assert mask.plan()[1][:4].tolist() == [1, n, n, 0]
    assert pickle.loads(pickle.dumps(mask)) == mask
