"""What attention rejects, and how a plan travels."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import fake_flash
from treepack.attention import TreePlan, backends, implementations, merge
from treepack.attention.ops import attn_bwd, attn_fwd
from treepack.errors import AttentionError
from treepack.hf.attention import tree_attention_forward

ROOT_AND_TWO = ([6, 4, 3], [-1, 0, 0])


@pytest.fixture
def mask():
    return tp.TreeMask.from_nodes(*ROOT_AND_TWO, total=14)


def tensors(total=14, heads=4, key_heads=2, size=8, dtype=torch.float64):
    return [torch.randn(total, h, size, dtype=dtype) for h in (heads, key_heads, key_heads)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (tensors(total=13), ["13 tokens", "the mask 14"]),
        (tensors(heads=5), ["5 query heads", "2 key heads"]),
        ([tensors()[0][None], *tensors()[1:]], ["(1, 14, 4, 8)"]),
        ([tensors(total=15)[0], *tensors()[1:]], ["15", "14", "KV cache"]),
        ([*tensors()[:2], tensors(size=16)[2]], ["(14, 2, 8)", "(14, 2, 16)"]),
        ([*tensors()[:2], tensors(dtype=torch.float32)[2]], ["float32", "float64", "cast"]),
        ([x.int() for x in tensors()], ["int32", "float16"]),
    ],
)
def test_tensors_that_do_not_fit_are_rejected(mask, given, says):
    plan = TreePlan.from_mask(mask)
    with pytest.raises(AttentionError) as error:
        tp.tree_attention(*given, plan)
    assert all(part in str(error.value) for part in says)


def test_what_is_no_mask_is_rejected():
    with pytest.raises(AttentionError, match="ndarray"):
        tp.tree_attention(*tensors(), np.ones((14, 14), bool))


def test_an_unknown_backend_names_those_there_are(mask):
    with pytest.raises(AttentionError, match=r"'cub'.*'cpu', 'cuda', .*'flex'"):
        tp.tree_attention(*tensors(), mask, backend="cub")


def on_gpu(dtype=torch.bfloat16, size=64):
    return SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype, shape=(14, 4, size))


@pytest.mark.parametrize(
    ("q", "says"),
    [
        (torch.zeros(14, 4, 8), "got cpu"),
        (on_gpu(dtype=torch.float32), "float32.*autocast"),
        (on_gpu(size=288), "head size 288"),
        (on_gpu(size=60), "head size 60"),
    ],
)
def test_the_cuda_backend_names_what_its_kernel_does_not_take(q, says):
    with pytest.raises(AttentionError, match=says):
        backends.load("cuda").check(q)


def test_old_gpus_are_rejected(monkeypatch):
    cuda = backends.load("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Turing")
    cuda.check_device.cache_clear()
    with pytest.raises(AttentionError, match=r"Turing.*\(7, 5\).*8\.0.*flex"):
        cuda.check(on_gpu())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda.check_device.cache_clear()
    cuda.check(on_gpu())
    cuda.check_device.cache_clear()


@pytest.mark.parametrize(
    ("backend", "capability", "needs"),
    [("fa3", (8, 0), r"9\.x"), ("fa3", (10, 0), r"9\.x"), ("fa4", (8, 9), r"9\.x or 10\.x")],
)
def test_nothing_is_activated_that_has_no_kernels_for_the_gpu(
    monkeypatch, backend, capability, needs
):
    cuda, asked = backends.load("cuda"), []
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", asked.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Other")
    cuda.check_device.cache_clear()
    with pytest.raises(AttentionError, match=rf"Other.*{needs}.*leave backend out"):
        backends.load(backend).check(on_gpu())
    cuda.check_device.cache_clear()
    assert asked == []


def test_fa4_wants_a_torch_that_knows_its_kernels(monkeypatch):
    monkeypatch.setattr(backends.load("cuda"), "check_device", lambda *device: None)
    monkeypatch.setattr(torch, "__version__", "2.11.1+cu130")
    with pytest.raises(AttentionError, match=r"2\.15.*2\.11\.1"):
        backends.load("fa4").check(on_gpu())


def test_the_backward_runs_no_other_kernels_than_the_forward(mask, monkeypatch):
    fake_flash.install(monkeypatch)
    q, k, v = (x.requires_grad_() for x in tensors())
    out = tp.tree_attention(q, k, v, mask, backend="cuda").sum()
    monkeypatch.setattr(backends.load("cuda"), "check", lambda q: implementations.require(None))
    monkeypatch.setattr(implementations, "active", lambda: "FA3")
    with pytest.raises(AttentionError, match="torch runs FA3"):
        out.backward()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_autocast_does_not_reach_into_the_kernels(mask, backend):
    halves = [x.bfloat16() for x in tensors()]
    plain = tp.tree_attention(*halves, mask, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tp.tree_attention(*halves, mask, backend=backend), plain)


def test_without_a_c_compiler_torch_merges(monkeypatch):
    merge.merge_on.cache_clear()
    monkeypatch.setattr(merge.shutil, "which", lambda name: None)
    assert merge.merge_on("cuda") is merge.merge_
    merge.merge_on.cache_clear()


def test_a_torch_with_another_log_sum_exp_layout_is_rejected(mask, monkeypatch):
    cuda = backends.load("cuda")

    def padded(*args, **keywords):
        out, lse, *rest = fake_flash.flash_forward(*args, **keywords)
        return out, lse[None], *rest

    monkeypatch.setattr(cuda, "check", lambda q: None)
    monkeypatch.setattr(cuda, "flash_forward", padded)
    with pytest.raises(AttentionError, match=r"\(1, 4, 13\)"):
        tp.tree_attention(*tensors(), mask, backend="cuda")


@pytest.mark.parametrize(("name", "package"), implementations.PACKAGES.items())
def test_a_flash_attention_that_is_not_installed_names_its_package(monkeypatch, name, package):
    monkeypatch.setattr(torch, "__version__", "2.15.0")
    monkeypatch.setattr(backends.load("cuda"), "check_device", lambda *device: None)
    with pytest.raises(AttentionError, match=rf"{name} needs the package {package}"):
        backends.load(name.lower()).check(on_gpu())
    assert implementations.active() is None


def test_torch_runs_one_flash_attention_at_a_time(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.15.0")
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert (backends.default(gpu), backends.default(cpu)) == ("cuda", "cpu")
    monkeypatch.setattr(backends.load("cuda"), "check_device", lambda *device: None)
    monkeypatch.setattr(implementations, "active", lambda: "FA4")
    assert (backends.default(gpu), backends.default(cpu)) == ("fa4", "cpu")
    backends.load("fa4").check(on_gpu())
    for other in ("cuda", "fa3"):
        with pytest.raises(AttentionError, match=r"torch runs FA4.*backend='fa4'.*restore"):
            backends.load(other).check(on_gpu())


def test_activation_is_asked_of_torch(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", asked.append)
    implementations.require("FA3")
    assert asked == ["FA3"]
    implementations.require(None)
    assert asked == ["FA3"]


@pytest.mark.parametrize(
    ("backend", "windows"), [("cuda", {(0, -1)}), ("fa3", {(0, -1)}), ("fa4", set())]
)
def test_windows_are_passed_only_where_needed(monkeypatch, backend, windows):
    fake_flash.install(monkeypatch)
    given = set()

    def noted(run):
        def noting(*args, window_size_left=None, window_size_right=None, **keywords):
            given.add((window_size_left, window_size_right))
            window = {"window_size_left": window_size_left, "window_size_right": window_size_right}
            return run(*args, **keywords, **window)

        return noting

    for name in ("flash_forward", "flash_backward"):
        monkeypatch.setattr(backends.load("cuda"), name, noted(getattr(fake_flash, name)))
    runs = [[0, 2, 0], [3, 6, 0]]
    mask = tp.TreeMask.from_nodes(*ROOT_AND_TWO, runs, "image_tokens", 14)
    q, k, v = (x.requires_grad_() for x in tensors())
    tp.tree_attention(q, k, v, mask, backend=backend).sum().backward()
    assert given == windows | {(None, None)}


def test_every_carrier_of_the_mask_gives_the_same(mask):
    q, k, v = tensors()
    plan = TreePlan.from_mask(mask)
    batch_entry = SimpleNamespace(plan=plan)
    outs = [tp.tree_attention(q, k, v, carrier) for carrier in (mask, plan, batch_entry)]
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_a_plan_survives_pickling_without_tensors_in_the_pickle(mask):
    plan = TreePlan.from_mask(mask)
    _, arguments = plan.__reduce__()
    assert not any(isinstance(argument, torch.Tensor) for argument in arguments)
    copy = pickle.loads(pickle.dumps(plan))
    assert torch.equal(copy.entries, plan.entries)
    assert torch.equal(copy.host, plan.host)
    assert (copy.total, copy.longest) == (plan.total, plan.longest) == (14, 10)


def test_moving_a_plan_leaves_its_host_table_and_the_original(mask):
    plan = TreePlan.from_mask(mask)
    moved = plan.to("meta")
    assert moved.device.type == "meta"
    assert moved.host is plan.host
    assert plan.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtype_of_the_region(mask, dtype):
    q, k, v = tensors(dtype=torch.float32)
    mixed = (q.requires_grad_(), k.to(torch.bfloat16), v)
    with torch.autocast("cpu", dtype):
        out = tp.tree_attention(*mixed, mask)
    assert out.dtype == dtype
    out.sum().backward()
    assert q.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # opcheck's own
@pytest.mark.parametrize("mode", ["none", "image_tokens"])
def test_the_operators_keep_their_promises_to_the_compiler(mode):
    runs = [[0, 2, 0], [3, 6, 0], [6, 9, 1]]
    mask = tp.TreeMask.from_nodes(*ROOT_AND_TWO, runs, mode, 14)
    plan = TreePlan.from_mask(mask)
    q, k, v = (x.requires_grad_() for x in tensors())
    torch.library.opcheck(attn_fwd, (q, k, v, plan.entries, plan.host, 0.3, "cpu"))
    q, k, v = (x.detach() for x in (q, k, v))
    out, lse = attn_fwd(q, k, v, plan.entries, plan.host, 0.3, "cpu")
    grad = torch.ones(1, 1, 1, dtype=torch.float64).expand(out.shape)
    torch.library.opcheck(
        attn_bwd,
        (grad, q, k, v, out, lse, plan.entries, plan.host, 0.3, "cpu"),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_the_log_sum_exp_of_padding_is_infinite_and_has_no_gradient(mask):
    plan = TreePlan.from_mask(mask)
    q, k, v = (x.requires_grad_() for x in tensors())
    _, lse = attn_fwd(q, k, v, plan.entries, plan.host, 0.3, "cpu")
    assert lse.isposinf().any(0).tolist() == [False] * 13 + [True]
    assert not lse.requires_grad


def test_merging_nothing_changes_nothing_whatever_its_sign():
    out, lse = torch.randn(3, 2, 4), torch.randn(2, 3)
    before = out.clone(), lse.clone()
    for nothing in (torch.inf, -torch.inf):
        merge.merge_(out, lse, slice(0, 3), torch.zeros(3, 2, 4), torch.full((2, 3), nothing))
    assert torch.equal(out, before[0])
    assert torch.equal(lse, before[1])


def test_merging_into_rows_without_keys_gives_the_part():
    out, lse = torch.zeros(3, 2, 4), torch.full((2, 3), torch.inf)
    part, part_lse = torch.randn(2, 2, 4), torch.randn(2, 2)
    merge.merge_(out, lse, torch.tensor([2, 0], dtype=torch.int32), part, part_lse)
    assert torch.equal(out[[2, 0]], part)
    assert torch.equal(lse[:, [2, 0]], part_lse)
    assert lse[:, 1].isposinf().all()


# ---- what transformers calls


class Layer(torch.nn.Module):
    layer_idx = 3


def call(mask, total=14, layer=None, **options):
    q, k, v = (x.transpose(0, 1)[None] for x in tensors(total))
    arguments = {"attention_mask": None, "treepack": mask, **options}
    query = arguments.pop("query", q)
    return tree_attention_forward(layer or Layer(), query, k, v, **arguments)


def vision_tower():
    layer = Layer()
    layer.is_causal = False
    return layer


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"treepack": None}, ["Layer of layer 3", "model(**batch)", "remove_unused_columns=False"]),
        ({"query": torch.zeros(2, 4, 14, 8)}, ["batch of 2", "batch_size=None"]),
        ({"query": torch.zeros(1, 4, 1, 8)}, ["1 queries and 14 keys", "use_cache=False"]),
        ({"total": 15}, ["15 tokens", "mask 14"]),
        ({"is_causal": False}, ["not causal", "text_config"]),
        ({"layer": vision_tower()}, ["not causal", "text_config"]),
        ({"dropout": 0.1}, ["0.1", "attention_dropout"]),
        ({"softcap": 30.0}, ["Layer of layer 3", "soft-capped", "30.0", 'backend="flex"']),
        ({"s_aux": torch.zeros(4)}, ["sinks"]),
        ({"attention_mask": torch.ones(1, 1, 14, 14)}, ["(1, 1, 14, 14)"]),
    ],
)
def test_transformers_gets_no_silent_fallback(mask, options, says):
    options = {"mask": mask, **options}
    with pytest.raises(AttentionError) as error:
        call(**options)
    assert all(part in str(error.value) for part in says)


def test_a_plan_without_the_window_is_rejected(mask):
    plan = TreePlan.from_mask(mask)
    with pytest.raises(AttentionError, match=r"window of 9 tokens.*longest path has 10"):
        tp.tree_attention(*tensors(), plan, window=9)
    assert tp.tree_attention(*tensors(), plan, window=10).shape == (14, 4, 8)


def test_a_plan_left_on_another_device_names_the_way(mask):
    with pytest.raises(AttentionError, match=r"\.to\("):
        call(TreePlan.from_mask(mask).to("meta"))


def test_transformers_gets_the_same_tensors_back(mask):
    q, k, v = tensors()
    heads_first = [x.transpose(0, 1)[None] for x in (q, k, v)]
    for window in (None, 10, 14, 4096):
        out, weights = tree_attention_forward(
            Layer(), *heads_first, None, scaling=0.2, sliding_window=window, treepack=mask,
            position_ids=None, use_cache=False,
        )  # fmt: skip
        assert weights is None
        assert torch.equal(out[0], tp.tree_attention(q, k, v, mask, 0.2))
