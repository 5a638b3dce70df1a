"""The code of docs/reference/formats.md gives what its comments say, and its table is complete."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from treepack.attention import formats
from treepack.errors import TreeError

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run():
    names = {}
    exec(CODE, names)
    return names


def test_every_comment_with_numbers_is_what_the_line_gives():
    names, seen = run(), 0
    for expression, numbers in re.findall(r"^(\S.*?)  # (\[[\d\[\], ]*\])", CODE, re.MULTILINE):
        if "=" not in expression:
            assert eval(expression, names).tolist() == ast.literal_eval(numbers), expression
            seen += 1
    assert seen == 8


def test_what_the_table_says_cannot_be_expressed_is_an_error():
    names = run()
    with pytest.raises(TreeError, match="see ahead"):
        formats.trl_tree_kwargs(names["images"])
    holed = names["tp"].TreeMask.from_nodes([4], [-1], [[0, 1, 0], [2, 3, 1]], "image_tokens")
    with pytest.raises(TreeError, match="text between"):
        formats.flashmask_columns(holed)


def test_the_table_lists_every_format():
    listed = re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)
    functions = inspect.getmembers(formats, inspect.isfunction)
    public = {name for name, f in functions if f.__module__ == formats.__name__ and name[0] != "_"}
    assert set(listed) == public
