"""The wheel, in an environment that holds nothing else but numpy."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[2]
USE = """
import treepack as tp
packer = tp.Packer({"tokens": 8}, pool_size=2)
packer.push("a", {"tokens": 3})
assert packer.push("b", {"tokens": 5}).keys == ["a", "b"]
assert tp.TreeMask.from_nodes([2, 1], [-1, 0]).to_dense().sum() == 6
assert tp.MessageTree([1, 2]).n_tokens == 2
try:
    tp.PackedDataset
except ImportError as error:
    assert "torch" in str(error)
else:
    raise SystemExit("torch is not here, yet PackedDataset is")
print(tp.__file__)
"""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    manifest = ROOT / "rust" / "treepack-py" / "Cargo.toml"
    maturin = Path(sys.executable).with_name("maturin")
    run(maturin, "build", "--release", "--quiet", "--offline", "-m", manifest, "-o", out)
    return next(out.glob("*.whl"))


def test_it_is_one_wheel_for_every_python(wheel):
    assert "cp311-abi3" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert {"treepack/py.typed", "treepack/_core.pyi", "treepack/_core.abi3.so"} <= set(names)
    assert all(name.startswith(("treepack/", "treepack-")) for name in names)


def test_numpy_is_all_that_it_requires(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist") and "extra" not in line]
    assert required == ["Requires-Dist: numpy>=1.26"]


def test_it_works_in_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel
    )
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])").strip())
    for part in Path(numpy.__file__).parents[1].glob("numpy*"):
        shutil.copytree(part, site / part.name)
    assert run(python, "-I", "-c", USE).strip() == str(site / "treepack" / "__init__.py")
    command = tmp_path / "env" / "bin" / "treepack"
    assert "Advice" in run(command, "simulate", "--mixture", "sft", "--sample", "500")
