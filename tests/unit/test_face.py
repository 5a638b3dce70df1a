"""What ``import treepack`` brings, and what it must not."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest
import treepack as tp

HEAVY = ("torch", "transformers", "PIL", "av", "rich", "matplotlib", "torchdata", "ray")


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_numpy_alone():
    code = (
        "import sys, treepack as tp\n"
        "packer = tp.Packer({'tokens': 8}); packer.push('a', {'tokens': 3}); packer.flush()\n"
        "tp.TreeMask.from_nodes([2, 1], [-1, 0]).to_dense()\n"
        "tp.MessageTree([1, 2]); dir(tp)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_the_face_is_small_and_every_name_is_there():
    names = [n for n in tp.__all__ if not isinstance(getattr(tp, n), types.ModuleType)]
    assert len(names) <= 15
    assert set(tp.__all__) <= set(dir(tp))
    assert all(getattr(tp, name).__doc__ for name in tp.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = tp.no_such_name


def test_every_error_is_a_value_error():
    kinds = [getattr(tp.errors, name) for name in tp.errors.__all__]
    assert all(issubclass(kind, tp.errors.TreepackError) for kind in kinds)
    assert issubclass(tp.errors.TreepackError, ValueError)
