"""What mutation testing puts into a file, and what it leaves alone."""

from __future__ import annotations

import pytest
from mutants.find import mutants_of
from mutants.groups import GROUPS, files_of
from mutants.report import sample


@pytest.fixture
def find(tmp_path):
    def find(text):
        (tmp_path / "a.py").write_text(text, "utf-8")
        return mutants_of(tmp_path / "a.py", tmp_path)

    return find


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("x = a < b", {"(a <= b)", "(a >= b)"}),
        ("x = a is None", {"(a is not None)"}),
        ("x = a and b", {"(a or b)", "a", "b"}),
        ("x = not a", {"a"}),
        ("x = a + b", {"(a - b)"}),
        ("x = a // b", {"(a % b)"}),
        ("x += a", {"x -= a", "pass"}),
        ("x = 1", {"2", "0"}),
        ("x = True", {"False"}),
        ("def f():\n    return a", {"return None"}),
        ("f(a)", {"pass"}),
        ("x.y = a", {"pass"}),
        ("for x in a:\n    break", {"continue"}),
        ("x = min(a)", {"max(a)"}),
        ("x = f(a, b=c)", {"f(a)"}),
        ("if a:\n    x = b", {"True", "False"}),
        ("x = [y for y in a if y]", {"True"}),
        ("x = a[b:c]", {"b:", ":c"}),
        ("def f(a='b', c=None): ...", {"'b~'", "0"}),
    ],
)
def test_each_operator_makes_its_faults(find, text, changes):
    assert {mutant.after for mutant in find(text)} == changes


@pytest.mark.parametrize(
    "text",
    [
        '"""A text of 1 < 2."""',
        "x: Literal[1] = a",
        "def f(x: Literal[1] | None) -> Literal[2]: ...",
        "raise ValueError(f'{1 < 2}', 3)",
        "x = f'{a + 1}'",
        "@f(1)\ndef g(): ...",
        "class A:\n    def __repr__(self):\n        return 'a' + 1",
        "if TYPE_CHECKING:\n    f(1)",
        "__all__ = [1]",
        "x = zip(a, strict=b)",
        "x = zip(a, strict=True)",
    ],
)
def test_texts_types_and_errors_are_left_alone(find, text):
    assert find(text) == []


def test_a_mutant_differs_from_the_file_in_its_fault_alone(find):
    text = "x = 'äöü', a < b  # ß\n\ndef f():\n    y = (c\n        < d)\n"
    for mutant in find(text):
        lines = mutant.text.count("\n")
        assert lines == text.count("\n") - mutant.before.count("\n")
        head, _, rest = mutant.text.partition(mutant.after)
        assert text == head + mutant.before + rest
        assert text.splitlines()[mutant.line - 1].strip()


def test_a_change_of_one_function_leaves_the_choice_of_the_others(find):
    def of(body):
        text = f"def f():\n    return {body}\n\n\ndef g(a, b):\n    return a < b, a + b, a - b, 7\n"
        return {(m.key, m.after) for m in sample(find(text), 4, seed=3) if m.line > 3}

    first, second = of("1"), of("1")
    assert first == second
    assert first & of("x + 1 + 2")


def test_every_group_but_those_to_come_has_files_and_a_file_is_in_one_group(pytestconfig):
    files = {name: files_of(group, pytestconfig.rootpath) for name, group in GROUPS.items()}
    assert all(files.values())
    every = [path for paths in files.values() for path in paths]
    assert len(every) == len(set(every))
