"""``treepack show``: one packed row of a file of records as a page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treepack.cli.arguments import add_budgets, add_command, add_records, one_budget_set
from treepack.errors import DatasetError

if TYPE_CHECKING:
    from treepack.families import Family
    from treepack.sources.conversations import Conversations

EXAMPLE = """\
  treepack show train.jsonl --processor ./my-model --row 3
  treepack show train.jsonl --processor ./my-model --budget tokens=4096 --out row.html"""

DEFAULT_TOKENS = 16_384

PICTURE = 480
"""Longest side of the images that are kept for the page, in pixels."""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "show", run, "write one packed row as a page", EXAMPLE)
    add_records(parser)
    parser.add_argument("--row", type=int, default=0, help="number of the row, from 0 on")
    add_budgets(parser, False, f"; by default tokens={DEFAULT_TOKENS}")
    parser.add_argument("--out", help="HTML file; by default row-N.html")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--order", choices=["shuffled", "kept"], default="shuffled")


class Remembering:
    """A source that keeps what was read of it, for the pictures of the row.

    Args:
        source: the examples.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.read: dict[Any, Conversations] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Conversations:
        example: Conversations = self.source[index]
        self.read[example.key] = example
        return example


def run(options: argparse.Namespace) -> None:
    """Pack until the row, and write its page."""
    from treepack.cli.records import find_family, open_records
    from treepack.dataset import PackedDataset
    from treepack.packing.shares import percent
    from treepack.viz import save_pack

    if options.row < 0:
        options.parser.error(f"--row is {options.row}; rows count from 0")
    budgets = one_budget_set(options) if options.budget else {"tokens": DEFAULT_TOKENS}
    out = Path(options.out or f"row-{options.row}.html")
    source, family = Remembering(open_records(options)), find_family(options)
    stream = PackedDataset(
        source,
        family=family,
        budgets=budgets,
        seed=options.seed,
        shuffle=options.order == "shuffled",
        oversize="drop",
        shard=(0, 1),
        virtual_shards=1,
    )
    rows = 0
    for rows, batch in enumerate(islice(stream, options.row + 1), 1):  # noqa: B007
        pass
    if rows <= options.row:
        raise DatasetError(
            f"{' '.join(options.records)}: its {len(source):,} examples make {rows} rows of "
            f"{budgets}, and --row counts from 0"
        )
    row = batch["treepack"]
    title = f"Row {options.row} of {', '.join(Path(path).name for path in options.records)}"
    pictures = _pictures([source.read[key] for key in row.keys if key in source.read])
    save_pack(batch, out, tokenizer=_reader(family), images=pictures, title=title)
    fill = ", ".join(f"{name} {percent(row.stats[f'fill_{name}'])} full" for name in budgets)
    count = f"{len(row.keys)} {'example' if len(row.keys) == 1 else 'examples'}"
    print(f"{out}: row {options.row}, {count}, {fill}")


def _reader(family: Family) -> Any:
    """What decodes tokens: a processor names those of images too, where it can decode."""
    has_both = hasattr(family.processor, "decode") and hasattr(family.processor, "image_token_id")
    return family.processor if has_both else family.tokenizer


def _pictures(examples: list[Conversations]) -> Mapping[Any, Any]:
    """The first image of each example, made small at once, since rows may have hundreds."""
    from treepack.sources.images import load_image

    found = {}
    for example in examples:
        for medium in list(example.media)[:1]:
            if medium.kind == "image":
                image = load_image(medium.value, str(example.key)).copy()
                image.thumbnail((PICTURE, PICTURE))
                found[example.key] = image
    return found
