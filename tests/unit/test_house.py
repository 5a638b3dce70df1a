"""The layout is the architecture: imports run one way, and nothing grows too large to read."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import treepack

ROOT = Path(treepack.__file__).parent
CHECKOUT = Path(__file__).parents[2]

WINGS = [
    {"_core", "options"},
    {"errors"},
    {"_packages"},
    {"_lazy"},
    {"_tree_fields"},
    {"tree"},
    {"sources", "packing", "attention", "_reference"},
    {"families", "batch"},
    {"dataset"},
    {"measuring"},
    {"costs", "state", "train", "testing"},
    {"hf", "lightning"},
    {"viz", "check", "rl"},
    {"cli"},
    {"__main__"},
]
"""Each wing imports from itself and from those before it; of one line, none imports another, but
that ``attention`` runs its reference, and that three short names of ``check`` lie
further left (see ENTRIES)."""

ALLOWED = {("attention", "_reference")}
ENTRIES = {
    ("testing", "check.doctor"),
    ("testing", "check.exact"),
    ("families", "check.learn"),
}
ONE_SMALL_FILE_EACH = {"families", "records", "unit"}
LINES, FUNCTION_LINES, MODULES = 400, 80, 12


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES_OF_OURS = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports_of(name):
    """Modules of ours that a module imports anywhere, inside functions too."""
    tree = ast.parse(MODULES_OF_OURS[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (resolve(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (resolve(node.module, alias.name) for alias in node.names)


def resolve(module, name=""):
    """What an import brings: the submodule if there is one of that name, else the module."""
    if module.split(".")[0] != "treepack":
        return None
    inner = ".".join(module.split(".")[1:])
    full = f"{inner}.{name}".strip(".")
    return full if full in MODULES_OF_OURS else inner or name


IMPORTS = {
    name: {found for found in imports_of(name) if found and (name, found) not in ENTRIES} - {name}
    for name in MODULES_OF_OURS
    if name
}


def wing(name):
    return name.split(".")[0]


def test_every_module_belongs_to_a_wing():
    assert {wing(name) for name in IMPORTS} | {"_core"} == set().union(*WINGS)


def test_imports_run_one_way():
    level = {name: number for number, names in enumerate(WINGS) for name in names}
    wrong = [
        (name, found)
        for name, imported in IMPORTS.items()
        for found in imported
        if wing(found) != wing(name)
        and level[wing(found)] >= level[wing(name)]
        and (wing(name), wing(found)) not in ALLOWED
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    # Taken away one after the other, those that import none of the rest leave the circles.
    left = dict(IMPORTS)
    while ready := [name for name, imported in left.items() if not imported & left.keys()]:
        for name in ready:
            del left[name]
    assert not left


def test_files_and_functions_fit_on_a_screen_or_two():
    sizes, functions = {}, {}
    for path in [*ROOT.rglob("*.py"), *(CHECKOUT / "rust").rglob("*.rs")]:
        text = path.read_text()
        sizes[path] = text.count("\n")
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    functions[path.name, node.name, node.lineno] = node.end_lineno - node.lineno + 1
    assert not {path: n for path, n in sizes.items() if n > LINES}
    assert not {name: n for name, n in functions.items() if n > FUNCTION_LINES}


def test_folders_stay_small():
    folders = Counter(
        path.parent
        for folder in (ROOT, *(CHECKOUT / name for name in ("tests", "benches")))
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    )
    assert not {
        folder: n
        for folder, n in folders.items()
        if n > MODULES and folder.name not in ONE_SMALL_FILE_EACH
    }
