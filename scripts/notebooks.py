"""Run the notebooks from top to bottom and store them with their outputs.

    python scripts/notebooks.py                 # all of them, in the order in which they are read
    python scripts/notebooks.py demo --to DIR   # one, written elsewhere

Needs the extra `notebook`. What they write goes into a folder of its own and is gone at the end.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"
# demo.ipynb takes the classifier that explore.ipynb has left, where it is there.
ORDER = ("train", "explore", "demo", "own_images")
_CELL_S = 600
_LOG = re.compile(r"$|[IWE]0000 |WARNING: All log|(?:INFO|WARNING):\w+:|To enable the following")


def run(names: Sequence[str], work: Path, to: Path) -> None:
    """Run notebooks in the folder `work`, and write them with their outputs to the folder `to`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the message has its traceback.
    """
    import nbformat
    from nbclient import NotebookClient

    for name in names:
        book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        where = {"metadata": {"path": str(work)}}
        NotebookClient(book, timeout=_CELL_S, resources=where).execute()
        for cell in book.cells:
            tidy(cell, work)
        nbformat.write(book, to / f"{name}.ipynb")


def tidy(cell: Any, work: Path) -> None:
    """Leave out of a cell what differs in every run: times, logs and the folder of the run."""
    cell.metadata.pop("execution", None)
    if cell.cell_type == "code":
        cell["outputs"] = [output for output in cell["outputs"] if not _is_log(output)]
        for output in cell["outputs"]:
            if "text" in output:
                output["text"] = output["text"].replace(f"{work.resolve()}/", "")


def _is_log(output: Mapping[str, Any]) -> bool:
    """Whether an output is nothing but what TensorFlow says when it is loaded."""
    lines = str(output.get("text", "")).splitlines()
    return output["output_type"] == "stream" and all(map(_LOG.match, lines))


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=ORDER, metavar="NAME", help=", ".join(ORDER))
    parser.add_argument("--work", type=Path, help="where they run (default: a temporary folder)")
    parser.add_argument("--to", type=Path, default=FOLDER, help="(default: where they are)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(arguments.names, arguments.work or Path(folder), arguments.to)


if __name__ == "__main__":
    main()
