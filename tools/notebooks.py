"""Run the notebooks of examples/notebooks and keep what they print: `make notebooks`.

Kept are outputs alone: no times, no warnings of the machine, no paths of it.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "notebooks"


def notebooks() -> list[Path]:
    """All of them, in the order in which they are read."""
    return sorted(FOLDER.glob("*.ipynb"))


def run(path: Path, workdir: Path, before: str = "") -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in `workdir`, from an empty kernel; `before` is run first and not kept.

    Raises nbclient's CellExecutionError when a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    if before:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    where = {"metadata": {"path": str(workdir)}}
    client = NotebookClient(notebook, timeout=3600, record_timing=False, coalesce_streams=True, resources=where)
    client.execute()
    if before:
        del notebook.cells[0]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # nbformat's are random
        if cell.cell_type == "code":
            cell["outputs"] = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},  # no version: not the machine's affair
    }
    return notebook


def main(*names: str) -> None:
    """Run those named, or all, and write them back."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    for path in notebooks():
        if not names or path.stem in names:
            print(f"running {path.name}")
            nbformat.write(run(path, FOLDER), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
