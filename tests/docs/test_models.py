"""docs/models.md names every family, and its example of a new one is a family."""

import re
from pathlib import Path

from helpers import zoo
from treepack import families

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def test_the_table_has_every_family_with_a_model():
    table = PAGE.partition("<!-- table")[2].partition("<!-- end")[0]
    named = set(re.findall(r"^\| `\w+`(?:, `\w+`)? \| `(\w+)`", table, re.MULTILINE))
    assert named == families.families().keys() - {"text"}
    assert table.count("\n| `") == len(zoo.BUILDERS)


def test_the_example_is_a_family():
    (code,) = re.findall(r"```python\n(from treepack.families.*?)```", PAGE, re.DOTALL)
    made = {}
    exec(code, made)
    kind = made["FAMILY"]
    assert issubclass(kind, families.Family)
    assert not kind.__abstractmethods__
    assert kind.media_names == {"image": ("pixel_values",)}


def test_what_a_family_can_declare_is_there():
    declared = set(re.findall(r"^\| `(\w+)", PAGE.partition("Beside it")[2], re.MULTILINE))
    assert len(declared) > 5
    for name in declared:
        assert hasattr(families.ProcessorFamily, name), name
