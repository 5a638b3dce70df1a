"""Writes the table of docs/models.md from what `check_exact` measures: make models."""

from __future__ import annotations

import argparse
import importlib.metadata
from pathlib import Path

import treepack as tp
from helpers import zoo
from helpers.unrounded import unrounded
from helpers.zoo.examples import rows
from treepack import families
from treepack.hf.checks import sees_ahead

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- table: make models -->", "<!-- end of table -->"
KINDS = ("images", "videos", "mixed")


def entry(name):
    """The line of one model: what is exact, and what it costs."""
    processor, model = zoo.build(name)
    family = families.find(processor)
    found = {}
    with unrounded():
        for kind, examples in rows(name):
            report = tp.testing.check_exact(model, family, examples)
            found[kind] = f"{report.logits:.0e} / {report.gradients:.0e}"
    seen = [found.get(kind, "-") for kind in KINDS]
    text = model.config.get_text_config()
    ahead = getattr(text, "use_bidirectional_attention", None)
    first = f"`{type(model).__name__}`" + (f", `{ahead}`" if ahead == "vision" else "")
    sees = sees_ahead(text) or family.bidirectional
    return [first, f"`{family.name}`", ", ".join(family.costs), sees, *seen]


def table():
    """The lines of the table."""
    titles = ["model", "family", "budgets", "sees ahead", *KINDS]
    lines = [titles, ["---"] * len(titles), *sorted(entry(name) for name in zoo.BUILDERS)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch"))
    what = "Logits / gradients, largest difference as a part of the largest value"
    told = f"{what}; {', '.join(versions)}."
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([before + BEGIN, told, "", *table(), END]) + after)


if __name__ == "__main__":
    main()
