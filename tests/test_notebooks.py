"""The notebooks run top to bottom in a fresh kernel, and what is committed of them shows without running.

``python tests/test_notebooks.py [NOTEBOOK ...]`` runs them in place and so makes their committed outputs, with the
figures as pictures, which needs Chrome or Chromium.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"  # nothing without a kernel
PICTURE, FIGURE = "image/png", "application/vnd.plotly.v1+json"
LARGEST, LARGEST_OUTPUT = 1_500_000, 300_000  # bytes of a notebook, and of one output
PATIENCE = 900  # seconds that one cell may take: a guard, also where all cores are busy
MACHINE = re.compile(r"/home/|/root/|/work/|/tmp/|/var/folders/|/Users/|[A-Z]:\\\\")


def executed(path: Path, folder: str | Path, **environment: str) -> Any:
    """The notebook with the outputs of a fresh kernel that works in ``folder``."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
        store_widget_state=False, record_timing=False, coalesce_streams=True,
    )  # fmt: skip
    return client.execute(env=os.environ | environment)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def shown(cell: Any) -> list[Any]:
    """The outputs of a cell that say something without a kernel, and the same whenever it is run: no widget, no bar."""
    return [
        output for output in cell.outputs
        if WIDGET not in output.get("data", {}) and not output.get("metadata", {}).get("progress")
    ]  # fmt: skip


def complaints(notebook: Any) -> list[Any]:
    """Errors, and what was written to stderr: warnings."""
    return [each for each in outputs_of(notebook) if each.output_type == "error" or each.get("name") == "stderr"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_five() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_", "4_", "5_"]


def test_what_is_committed_shows_without_running(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not complaints(notebook)
    assert all(shown(cell) == cell.outputs for cell in cells)
    assert "widgets" not in notebook.metadata
    assert sum(PICTURE in output.get("data", {}) for output in outputs_of(notebook)) >= 2
    assert path.stat().st_size < LARGEST


@pytest.mark.notebook
def test_it_runs_from_a_fresh_kernel_without_a_warning(path: Path, tmp_path: Path) -> None:
    notebook = executed(path, tmp_path)
    assert complaints(notebook) == []
    for cell, kept in zip(code_cells(notebook), code_cells(nbformat.read(path, as_version=4)), strict=True):
        fresh = {kind for output in shown(cell) for kind in output.get("data", {"text/plain": 0})}
        assert bool(kept.outputs) <= bool(fresh), cell.source
    assert sum(FIGURE in output.get("data", {}) for output in outputs_of(notebook)) >= 2


def test_no_output_names_a_machines_path(path: Path) -> None:
    for output in outputs_of(nbformat.read(path, as_version=4)):
        output.get("data", {}).pop(PICTURE, None)
        assert not MACHINE.search(json.dumps(output)), output


def write(path: Path) -> None:
    """Run a notebook in place; widgets and outputs too large to be kept are left out."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(path, folder, PLOTLY_RENDERER="png")
    for cell in code_cells(notebook):
        cell.outputs = [each for each in shown(cell) if len(json.dumps(each)) < LARGEST_OUTPUT]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for notebook in map(Path, sys.argv[1:]) if sys.argv[1:] else NOTEBOOKS:
        write(notebook)
