"""The fused merge kernel does what the torch one does; it runs in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import numpy as np, torch
from helpers.cases import cases
from treepack.attention.merge import merge_
from treepack.attention import merge_kernel

def random_lse(rng, heads, n, dtype):
    lse = torch.from_numpy(rng.standard_normal((heads, n)) * 4).to(dtype)
    kind = torch.from_numpy(rng.integers(0, 6, (heads, n)))
    return lse.masked_fill(kind == 0, torch.inf).masked_fill(kind == 1, -torch.inf)

def without_keys(x, lse):
    return x.masked_fill(lse.isinf().T[..., None], 0.0)

done = 0
for rng in cases(150, "merge kernel"):
    total, heads, size = (int(rng.integers(1, n)) for n in (90, 4, 20))
    dtype, wide = [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
    ][rng.integers(3)]
    n = int(rng.integers(0, total + 1))
    lse, part_lse = random_lse(rng, heads, total, wide), random_lse(rng, heads, n, wide)
    out = without_keys(torch.from_numpy(rng.standard_normal((total, heads, size))), lse).to(dtype)
    part = without_keys(torch.from_numpy(rng.standard_normal((n, heads, size))), part_lse)
    part = part.to(dtype)
    if rng.random() < 0.5:
        start = int(rng.integers(0, total - n + 1))
        tokens = slice(start, start + n)
    else:
        tokens = torch.from_numpy(rng.permutation(total)[:n].astype(np.int32))
    expected = out.clone(), lse.clone()
    merge_(*expected, tokens, part, part_lse)
    merge_kernel.merge_(out, lse, tokens, part, part_lse)
    # A unit or two in the last place: the sums are rounded in another order.
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(out, expected[0], rtol=2 * ulp, atol=8 * torch.finfo(wide).eps)
    torch.testing.assert_close(lse, expected[1], rtol=0, atol=1e-5)
    done += 1
print("cases:", done)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_merges_as_torch_does():
    tests = Path(__file__).parents[1]
    # The interpreter must be chosen before Triton is imported.
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(tests)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 150


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("index", ["*i32", "*fp32"])
def test_the_kernel_compiles_for_gpus_that_are_not_here(capability, index):
    import triton
    from treepack.attention.merge_kernel import _merge
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = ["*bf16", "*fp32", "*bf16", "*fp32", index, "i32", "i32", "i32"]
    constants = {"HEADS": 4, "SIZE": 24, "SIZE_2": 32, "BLOCK_TOKENS": 32}
    constants["IS_GATHERED"] = index == "*i32"
    signature = dict(zip(_merge.arg_names, [*types, *["constexpr"] * 5], strict=True))
    source = ASTSource(fn=_merge, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]
    # All warps load the log-sum-exp of a token; only then may one of them replace it.
    assert "bar.sync" in compiled.asm["ptx"]
