"""Records and their model's family, as the command line names them."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treepack._packages import needing
from treepack.errors import FamilyError
from treepack.options import OnError

if TYPE_CHECKING:
    from treepack.families import Family
    from treepack.sources.conversations import GroupedConversations


def open_records(options: argparse.Namespace, on_error: OnError = "raise") -> GroupedConversations:
    """The examples of the files."""
    from treepack.sources.conversations import group_conversations

    paths: Any = options.records[0] if len(options.records) == 1 else options.records
    return group_conversations(
        paths, options.images, on_error=on_error, by_question=options.by_question
    )


def find_family(options: argparse.Namespace) -> Family:
    """The family of the processor that was named.

    Raises:
        FamilyError: there is no processor, or no family supports it.
        MissingPackageError: transformers is not installed.
    """
    from treepack import families

    return families.find(load_processor(options.processor), options.family)


def load_processor(name: str) -> Any:
    """The processor, or the tokenizer of a text model, of a folder or of the Hub."""
    # Its advice on what to install is not about this.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with needing("hf", "reading a processor"):
        import transformers
    is_path = name.startswith((".", "/", "~")) or name.endswith("/")
    folder = Path(name).expanduser()
    if is_path and not folder.is_dir():
        raise FamilyError(f"{name}: there is no such folder; save_pretrained writes one")
    place = str(folder) if folder.is_dir() else name
    try:
        return transformers.AutoProcessor.from_pretrained(place)
    except Exception as error:
        found: Any = None
        with contextlib.suppress(Exception):
            found = transformers.AutoTokenizer.from_pretrained(place)
        if found is None:
            first = str(error).strip().split("\n")[0]
            raise FamilyError(f"{name}: no processor can be read from it: {first}") from error
        return found
