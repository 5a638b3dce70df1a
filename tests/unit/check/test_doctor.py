"""The doctor names what is wrong on a machine, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import fake_flash
from treepack.attention import backends
from treepack.attention.plan import TreePlan, read_calls
from treepack.check.doctor import kernels, model, parts, speed
from treepack.check.doctor.exactness import Errors, judge, pose, solve
from treepack.check.doctor.findings import (
    OK,
    SKIPPED,
    WIDTH,
    WRONG,
    Diagnosis,
    Finding,
    from_errors,
)
from treepack.check.doctor.rows import CASES, rows
from treepack.check.doctor.session import Session

CPU = torch.device("cpu")
CROSS = next(case for case in CASES if case.name == "CROSS")
MANY = next(case for case in CASES if case.name == "CROSS, many")
LAUNCHES = next(case for case in CASES if case.launches)

RUN = """
import sys
sys.modules["transformers"] = None
import torch
from treepack.attention.backends import cpu
from treepack.check.doctor import kernels, speed
from treepack.cli import main

kernels.CASES = kernels.CASES[:4]
speed.WAYS = {}
if "wrong" in sys.argv:
    right = cpu.forward
    def wrong(*inputs):
        out, lse = right(*inputs)
        return out + 1e-2, lse
    cpu.forward = wrong
sys.exit(main(["doctor", "--json", sys.argv[1]]))
"""


@pytest.fixture
def session():
    return Session(CPU, 1e9)


def off_by(size, name, monkeypatch):
    """Let a backend be wrong: in its output, or in one of its gradients."""
    cpu = backends.load("cpu")
    right = getattr(cpu, name)

    def wrong(*inputs):
        first, *rest = right(*inputs)
        return first + size, *rest

    monkeypatch.setattr(cpu, name, wrong)


@pytest.mark.parametrize("function", ["forward", "backward"])
def test_a_backend_that_is_off_is_named_and_no_other(function, session, monkeypatch):
    monkeypatch.setattr(kernels, "CASES", [CROSS])
    off_by(1e-2, function, monkeypatch)
    kernels.check_backends(session)
    found = session.diagnosis()
    assert found.wrong == ["cpu"]
    assert not found.ok
    assert {each.part for each in found.findings if each.result == OK} == {"reference"}


def test_numbers_on_padding_and_nan_are_wrong():
    problem = pose(rows()["SELF, padding"], np.random.default_rng(0), CPU, torch.float32)
    for number in (1e-9, torch.nan):
        results = [x.clone() for x in problem.exact]
        assert judge(problem, results).is_exact
        results[1][-1] = number
        assert not judge(problem, results).is_exact
    results = [x.clone() for x in problem.exact]
    results[3][0, 0, 0] = torch.nan
    assert not judge(problem, results).is_exact


def test_a_kernel_that_reads_padding_is_wrong():
    row = rows()["SELF, padding"]
    problem = pose(row, np.random.default_rng(0), CPU, torch.float32)

    def attend(q, k, v):
        return tp.tree_attention(q, k, v, row.mask) + 0 * k[-1].sum()

    assert solve(problem, backend="cpu").is_exact
    assert not solve(problem, attend).is_exact


@pytest.mark.parametrize("name", rows())
def test_each_row_has_the_calls_that_it_says(name):
    mask, window, kinds = rows()[name]
    plan = TreePlan.from_mask(mask, window)
    assert {call.kind for call in read_calls(plan.entries, plan.host)} == kinds


def lengths_of(call):
    return call.cu_q.diff().tolist(), call.cu_k.diff().tolist()


def test_all_kinds_of_calls_and_their_gaps_are_among_the_cases():
    all_rows = rows()
    assert {case.row for case in CASES} == set(all_rows)
    calls = []
    for mask, window, _ in all_rows.values():
        plan = TreePlan.from_mask(mask, window)
        calls += read_calls(plan.entries, plan.host)
    assert {call.kind for call in calls} == set(range(5))
    gaps = {(bool(q), bool(k)) for c in calls for q, k in zip(*lengths_of(c), strict=True)}
    assert {(True, True), (True, False), (False, True)} <= gaps


@pytest.mark.parametrize("case", [MANY, LAUNCHES], ids=lambda case: case.name)
def test_the_backends_of_a_gpu_are_checked_like_the_others(case, monkeypatch):
    fake_flash.install(monkeypatch)
    launched = []
    monkeypatch.setattr(
        backends.load("cuda"),
        "flash_forward",
        lambda *x, **y: launched.append(len(x[3]) - 1) or fake_flash.flash_forward(*x, **y),
    )
    for name in fake_flash.BACKENDS:
        assert kernels.check_case(name, case, CPU).result == OK
    assert (max(launched) <= kernels.SEGMENTS) == case.launches


def test_what_fails_is_a_finding_and_the_rest_goes_on(session):
    def fails(error):
        def find():
            raise error

        return find

    session.run("a", "x", fails(RuntimeError("no kernel\nimage")))
    session.run("b", "x", fails(RuntimeError("head size")), lenient=True)
    session.run("c", "x", fails(torch.OutOfMemoryError("short")))
    session.run("d", "x", fails(ImportError("triton")))
    session.run("e", "x", fails(RuntimeError("CUDA error: an illegal memory access")))
    session.run("f", "x", lambda: Finding("f", "x", OK))
    found = session.diagnosis()
    assert [each.result for each in found.findings] == [
        WRONG, SKIPPED, SKIPPED, SKIPPED, WRONG, SKIPPED
    ]  # fmt: skip
    assert found.wrong == ["a", "e"]
    assert "e, x" in found.findings[-1].note


def test_after_its_time_nothing_begins():
    session = Session(CPU, -1)
    session.run("a", "x", lambda: Finding("a", "x", OK))
    assert [each.result for each in session.findings] == [SKIPPED]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_kernel_of_flex_that_is_off_is_found(monkeypatch):
    assert parts.check_flex(CPU, None, "forward").result == OK
    assert parts.check_flex(CPU, 70, "forward").result == OK
    right = parts.tree_attention
    monkeypatch.setattr(parts, "tree_attention", lambda *x, **y: right(*x, **y) + 1e-2)
    assert parts.check_flex(CPU, None, "forward").result == WRONG


def test_a_merge_that_is_off_is_found(monkeypatch):
    assert parts.check_merge(CPU).result == SKIPPED

    def wrong(out, lse, tokens, part, part_lse):
        parts.merge_(out, lse, tokens, part, part_lse)
        lse += 1e-3

    # A copy of what is compared with is right.
    monkeypatch.setattr(parts, "merge_on", lambda _: lambda *x: parts.merge_(*x))
    assert parts.check_merge(CPU).result == OK
    monkeypatch.setattr(parts, "merge_on", lambda _: wrong)
    assert parts.check_merge(CPU).result == WRONG


def test_a_compiled_model_that_is_off_or_breaks_is_found():
    plain = torch.tensor([1e-6, 1e-4])
    assert model._judge(plain, plain, 2).result == OK
    assert model._judge(plain, plain, 3).result == WRONG
    assert model._judge(100 * plain, plain, 1).result == WRONG


def test_ways_of_the_speed_table_give_the_same_and_have_as_many_pairs():
    mask = speed.long_row(512)
    q, k, v = (x.detach() for x in speed._tensors(512, (4, 2, 16), CPU))
    tree, dense = (way(mask, CPU)(q, k, v) for way in (speed.by_tree, speed.by_dense_mask))
    torch.testing.assert_close(tree[: mask.used], dense[: mask.used])
    length = len(speed.by_equal_pairs(mask, CPU)(q, k, v))
    assert abs(length * length / 2 - mask.area) <= length + 1


def test_the_table_fits_80_columns_and_names_the_worst_dtype():
    good = Errors(1e-3, 2e-3, 1e-3, 2e-3, True)
    bad = Errors(1e-1, float("nan"), 1e-3, 2e-3, False)
    findings = [
        from_errors("cuda", "ANTI_CAUSAL_GATHERED", {"bfloat16": good, "float16": bad}),
        from_errors("flex", "forward", {"bfloat16": good._replace(backward=None)}),
        Finding("fa3", "all kinds of calls", SKIPPED, "a long reason " * 10),
    ]
    table = str(Diagnosis(findings, "a GPU of some long name", 12.0))
    assert max(map(len, table.splitlines())) <= WIDTH
    (line,) = (line for line in table.splitlines() if line.startswith("cuda"))
    assert line.split() == [
        "cuda", "ANTI_CAUSAL_GATHERED", "WRONG", "fp16", "1.0e-01", "1.0e-03", "nan", "2.0e-03"
    ]  # fmt: skip
    assert "Wrong: cuda." in table
    json.dumps(Diagnosis(findings, "a GPU", 12.0).to_dict(), allow_nan=False)


def test_the_errors_are_beside_those_of_a_plain_implementation():
    problem = pose(rows()["CROSS"], np.random.default_rng(0), CPU, torch.bfloat16)
    errors = solve(problem, backend="reference")
    assert 0 < errors.forward < errors.plain_forward < 0.01
    assert errors.is_exact


def test_without_time_all_is_skipped():
    found = tp.testing.doctor(seconds=0, speed=False)
    assert found.ok
    assert OK not in {each.result for each in found.findings}
    assert "no GPU was found" in str(found) or torch.cuda.is_available()


@pytest.mark.parametrize("how", ["right", "wrong"])
def test_the_command_prints_writes_and_ends(how, tmp_path):
    out = tmp_path / "doctor.json"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(out), how], capture_output=True, text=True, check=False
    )
    assert done.returncode == (how == "wrong"), done.stderr
    assert max(map(len, done.stdout.splitlines())) <= WIDTH
    assert "\x1b" not in done.stdout
    assert "transformers is not" in done.stdout
    found = json.loads(out.read_text())
    assert found["ok"] == (how == "right")
    if not torch.cuda.is_available():
        assert found["wrong"] == ["cpu"] * (how == "wrong")
        assert ("Wrong: cpu." in done.stdout) == (how == "wrong")
