"""The notebooks run from top to bottom, and are kept without outputs."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / name, as_version=4)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_they_are_kept_without_outputs(path: Path) -> None:
    """No outputs or counts are committed, and each notebook opens with a title."""
    cells = read(path.name).cells
    assert cells[0].source.startswith("# ")
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize(
    "name",
    [  # of CI's time this one would take most of a minute: it runs a sweep
        pytest.param(name, marks=[pytest.mark.slow] if name == "analysis.ipynb" else [])
        for name in sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own machinery
def test_they_run(name: str, tmp_path: Path) -> None:
    """Every cell runs in an empty folder, and tables and figures show as the last line of a
    cell.
    """
    notebook = read(name)
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources=folder).execute()
    shown = [
        output.data
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert sum("text/html" in data for data in shown) >= 3
    assert any("image/png" in data for data in shown)
