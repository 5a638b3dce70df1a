"""The notebook: run again, and as a page of the site.

python docs/site/notebook.py      # runs examples/tour.ipynb and keeps what it gives
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"
SECONDS = 240
"""A cell takes no longer."""


def run(text: str) -> str:
    """Run a notebook from its first cell to its last, in an empty folder.

    Args:
        text: of the .ipynb file, format 4.

    Returns:
        The notebook with what its cells gave; it has no times, so that it is the same every time.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises.
    """
    import nbformat
    from nbclient import NotebookClient

    found = nbformat.reads(text, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            found,
            timeout=SECONDS,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    found.metadata.language_info = {"name": "python"}
    return nbformat.writes(found)


def page(text: str) -> str:
    """Markdown of a notebook with its outputs.

    Args:
        text: of the .ipynb file, format 4.
    """
    return "\n\n".join(part for cell in json.loads(text)["cells"] for part in _parts(cell)) + "\n"


def _parts(cell: Mapping[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        yield _output(output)


def _output(output: Mapping[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _text(output["text"])
    data = output["data"]
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<p><img alt="what the cell gives" src="data:image/png;base64,{picture}"></p>'
    if "text/html" in data:
        # In one line, so that Markdown leaves it as it is.
        return f"<div>{''.join(data['text/html']).replace(chr(10), ' ')}</div>"
    return _text(data["text/plain"])


def _text(lines: list[str]) -> str:
    return f"```text\n{''.join(lines).rstrip()}\n```"


if __name__ == "__main__":
    TOUR.write_text(run(TOUR.read_text()) + "\n")
