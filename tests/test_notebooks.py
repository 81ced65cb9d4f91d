"""The notebooks are stored with what they show, and run from top to bottom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def outputs(book: dict) -> list[dict]:
    return [output for cell in book["cells"] for output in cell.get("outputs", ())]


def test_all_of_them_are_run():
    assert {path.stem for path in PATHS} == set(notebooks.ORDER)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_as_it_ran(path):
    book = read(path)
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(output["output_type"] != "error" for output in outputs(book))
    assert any("image/png" in output.get("data", {}) for output in outputs(book)), "a picture"
    assert path.stat().st_size < 1_500_000


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_a_notebook_shows_is_of_no_machine(path):
    for output in outputs(read(path)):
        said = "".join(output.get("text", ())) + "".join(
            output.get("data", {}).get("text/plain", ())
        )
        assert not re.search(r"(?:^|[\s'\"(])/(?:home|root|tmp|work)/", said), said
        assert "Warning" not in said, said


@pytest.mark.slow
def test_the_notebooks_run_from_top_to_bottom(tmp_path):
    pytest.importorskip("nbclient", reason="needs the extra notebook")
    work, to = tmp_path / "work", tmp_path / "to"
    work.mkdir()
    to.mkdir()
    notebooks.run(notebooks.ORDER, work, to)
    for path in PATHS:
        assert len(outputs(read(to / path.name))) >= len(outputs(read(path))) - 1
