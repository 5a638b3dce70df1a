"""Whoever lacks a package is told which, what needs it, and the extra that brings it."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import treepack as tp
from treepack._packages import EXTRAS, FOR_MEDIA, needing
from treepack.errors import DataError, MissingPackageError, TreepackError
from treepack.sources import images

ROOT = Path(tp.__file__).parent
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

CALLS = {
    "cli/records.py": ("transformers", lambda: _module("cli.records").load_processor("./model")),
    "hf/attention.py": ("transformers", lambda: tp.hf.register()),
    "measuring/with_ray.py": ("ray", lambda: tp.costs.measure([_tree()], ray=True)),
    "packing/packs.py": ("pyarrow", lambda: _packs().save("packs.parquet")),
    "rl/trl_attention.py": ("transformers", lambda: tp.rl.register_trl_tree_attention()),
    "sources/costs/parquet.py": ("pyarrow", lambda: tp.costs.read("costs.parquet")),
    "sources/images.py": ("PIL", lambda: images.load_rgb("a.png", "example 'a'")),
    "sources/stores/arrow.py": (
        "pyarrow",
        lambda: _module("sources.stores.arrow").open_parquet(Path("a"), None),
    ),
    "sources/videos.py": (
        "av",
        lambda: _module("sources.videos").video_clip("a.mp4", "example 'a'"),
    ),
    "viz/thumbnails.py": ("PIL", lambda: _module("viz.thumbnails").make_thumbnail("a.png", 8)),
    "hf/recurrent.py": ("tree_recurrence", lambda: _module("hf.recurrent")._package("Model")),
}
"""For each module that needs a package inside of a function, what calls it, and the package."""

AT_THE_TOP = {"train.py": "torch", "testing.py": "torch", "lightning.py": "lightning"}
"""Public modules that import a package when they are imported."""

LISTED = {
    ("measuring/bar.py", "rich"): "without it there is no bar",
    ("sources/grouping.py", "rich"): "without it there is no bar",
    ("packing/offline.py", "rich"): "without it there is no bar",
    ("cli/terminal.py", "rich"): "without it tables are plain",
    ("measuring/workers.py", "torch"): "a worker of costs.measure, which needs it",
    ("hf/logprobs.py", "torch"): "its arguments are tensors",
    ("hf/loss.py", "torch"): "its arguments are tensors",
    ("hf/checks.py", "torch"): "it looks at a model of torch",
    ("families/learned.py", "torch"): "its facts are those of a model of torch",
    ("families/by_processor.py", "PIL"): "its processor is one of transformers that takes images",
    ("families/by_processor.py", "transformers"): "its processor is of transformers",
    ("families/options.py", "transformers"): "its processor is of transformers",
    ("check/doctor/model.py", "transformers"): "the check is skipped without it",
    ("sources/costs/parquet.py", "pyarrow"): "the table was read with it",
}
"""Imports inside of functions that cannot fail there, or may, and why."""


def _tree():
    return tp.MessageTree([1, 2])


def _packs():
    return tp.pack({"tokens": [1, 2]}, {"tokens": 4})


def _module(name):
    return importlib.import_module(f"treepack.{name}")


def third_party(node):
    """Packages of an import that are neither Python's own nor ours."""
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    roots = {name.partition(".")[0] for name in names}
    return roots - sys.stdlib_module_names - {"treepack", "numpy", "__future__"}


def imports(body, inside=None, needs=False):
    """Imports of a module: the package, the function that it is in, whether ``needing`` tells."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((package, inside, needs) for package in third_party(node))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports(node.body, node.name, needs)
        else:
            says = isinstance(node, ast.With) and "needing(" in ast.unparse(node.items[0])
            blocks = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
            blocks += [handler.body for handler in getattr(node, "handlers", [])]
            for block in blocks:
                yield from imports(block, inside, needs or says)


FOUND = {
    path.relative_to(ROOT).as_posix(): list(imports(ast.parse(path.read_text()).body))
    for path in sorted(ROOT.rglob("*.py"))
    if not path.is_relative_to(ROOT / "_reference")
}


def test_each_import_inside_a_function_tells_what_is_missing_or_cannot_fail():
    bare = {
        (module, package)
        for module, found in FOUND.items()
        for package, inside, needs in found
        if inside and not needs and (package, None, False) not in found
    }
    assert bare == LISTED.keys()


def test_each_module_that_needs_a_package_is_called_here():
    inside = {m for m, found in FOUND.items() if any(i and needs for _, i, needs in found)}
    assert inside == CALLS.keys()
    top = {m for m, found in FOUND.items() if any(n and not i for _, i, n in found)}
    assert top - {"rl/grpo.py"} == AT_THE_TOP.keys()


@pytest.mark.parametrize("module", CALLS)
def test_a_call_without_the_package_names_the_extra(module, monkeypatch, tmp_path):
    package, call = CALLS[module]
    monkeypatch.chdir(tmp_path)
    for name in ("costs.parquet", "a.png", "a.mp4", "a"):
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(images, "_pillow", images._pillow.__wrapped__)
    with pytest.raises(MissingPackageError, match=r" needs .*: pip install 'treepack\[") as caught:
        call()
    assert caught.value.name == package
    extra = str(caught.value).rpartition("[")[2].partition("]")[0]
    assert package in EXTRAS[extra]


DOORS = """
import sys, importlib, pydoc
blocked = sys.argv[1].split(",")
sys.modules.update(dict.fromkeys(blocked))
from treepack import errors
import treepack as tp
text = pydoc.render_doc(tp)
homes = "attention check costs dataset families hf lightning packing rl state testing train viz"
for home in ["treepack", *(f"treepack.{name}" for name in homes.split())]:
    try:
        module = importlib.import_module(home)
    except errors.MissingPackageError as error:
        print(home, "*", error)
        continue
    shown = dir(module)
    for name in module.__all__:
        try:
            getattr(module, name)
        except errors.MissingPackageError as error:
            print(home, name, error)
            assert name not in shown or error.name not in blocked, name
        else:
            assert name in shown or "torch" not in blocked, name
"""


def test_every_public_name_is_there_or_names_the_extra():
    """Without torch, and without anything but torch; ``help`` works all the same."""
    everything = sorted({name for names in EXTRAS.values() for name in names})
    others = [name for name in everything if name != "torch"]
    told = {}
    for blocked in (everything, others):
        command = [sys.executable, "-c", DOORS, ",".join(blocked)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told[len(blocked)] = done.stdout
    assert "treepack PackedBatch" in told[len(everything)]
    assert "treepack.hf prepare" in told[len(everything)]
    assert "treepack.train *" in told[len(everything)]
    homes = {tuple(line.split()[:2]) for line in told[len(others)].splitlines()}
    assert homes == {
        ("treepack.hf", "PackedTrainer"),
        ("treepack.rl", "GRPOTrainer"),
        ("treepack.rl", "TreeGRPO"),
        ("treepack.lightning", "*"),
    }


def test_the_extras_are_those_of_the_project():
    given = PROJECT["optional-dependencies"]
    assert EXTRAS.keys() - {""} == given.keys() - {"dev", "demo", "docs"}
    brought = {extra: " ".join(given[extra]) for extra in given}
    modules = {"PIL": "pillow", "tree_recurrence": "tree-recurrence"}
    for extra, packages in EXTRAS.items():
        whole = brought.get(extra, "")
        for other in given:
            if f"[{other}]" in whole:
                whole += brought[other]
        assert all(modules.get(package, package) in whole for package in packages), extra


def test_every_extra_is_used_and_every_package_that_is_imported_has_one():
    used = {package for found in FOUND.values() for package, _, _ in found}
    # torch brings Triton; image processors of transformers import torchvision.
    assert used - {"triton"} == set().union(*EXTRAS.values()) - {"torchvision"}


def test_a_package_of_another_version_is_told_from_one_that_is_missing():
    with (
        pytest.raises(MissingPackageError, match=r"trl in another version .*--upgrade 'treepack"),
        needing("rl", "this"),
    ):
        raise ImportError("cannot import name 'x' from 'trl'", name="trl")


def test_what_no_extra_brings_stays_as_it_is():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needing("rl", "this"):
        importlib.import_module("no_such_module")


def test_the_error_is_one_of_ours_and_an_import_error():
    assert issubclass(MissingPackageError, TreepackError)
    assert issubclass(MissingPackageError, ImportError)
    assert not issubclass(MissingPackageError, DataError)
    assert set().union(*EXTRAS.values()) >= FOR_MEDIA


def test_a_missing_package_is_no_example_to_skip(monkeypatch):
    class Pictures:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            images.load_rgb("a.png", f"example {index}")

    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setattr(images, "_pillow", images._pillow.__wrapped__)
    dataset = tp.PackedDataset(Pictures(), budgets={"tokens": 8}, on_error="skip")
    with pytest.raises(MissingPackageError, match=r"needs Pillow.*treepack\[hf\]"):
        next(iter(dataset))
    with pytest.raises(MissingPackageError, match=r"needs Pillow"):
        tp.costs.measure(Pictures(), workers=0, on_error="skip")
