"""The notebooks run from an empty kernel, and what is committed of them is whole and holds nothing of a machine.

The first runs here on a tiny model and text in place of the packaged ones; `make notebooks` runs all for real.
"""

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from tools.test_site import module

ROOT = Path(__file__).parents[2]
TESTS = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
MODEL = "smollm2-135m-instruct-c1"

SMALL_TEXT = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from conftest import sentences
from exemplar_partitioning.demo import corpus
from exemplar_partitioning.text.readers import Document
import os, pathlib
from dataclasses import replace
from safetensors.torch import load_file
from exemplar_partitioning.demo.models import PACKAGED_MODELS
from exemplar_partitioning.models.identity import weights_hash_of
small = pathlib.Path(os.environ["EP_CACHE"]) / "models" / {MODEL!r} / "model.safetensors"
name = "smollm2-135m-instruct"
PACKAGED_MODELS[name] = replace(PACKAGED_MODELS[name], weights=weights_hash_of(load_file(small)))
corpus.read_corpus = lambda reading: (Document(f"small/{{i}}", t) for i, t in enumerate(sentences(24_000, seed=2)))
"""


@pytest.fixture
def small_world(tiny_folder, tmp_path, monkeypatch):
    """A cache whose packaged model is a tiny one, an environment that kernels take over, a folder to work in."""
    model = tmp_path / "cache" / "models" / MODEL
    shutil.copytree(tiny_folder, model)
    (model / "source.json").write_text(json.dumps({"files": {}}))
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = 256  # windows as a real model reads them
    (model / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


REAL = "2_acting"  # acts with the packaged model on the packaged dictionary


@pytest.mark.filterwarnings("default")  # of the kernel's own machinery
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != REAL], ids=lambda path: path.stem)
def test_a_notebook_runs(path, small_world):
    check_run(path, module("notebooks").run(path, small_world, before=SMALL_TEXT), first=2)


@pytest.mark.packaged
@pytest.mark.filterwarnings("default")
def test_the_notebook_with_the_packaged_model_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    [path] = [path for path in NOTEBOOKS if path.stem == REAL]
    check_run(path, module("notebooks").run(path, tmp_path), first=1)


def check_run(path, ran, first):
    kept = nbformat.read(path, as_version=4)
    assert [cell.source for cell in ran.cells] == [cell.source for cell in kept.cells]
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(first, len(code) + first))
    kinds = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert "image/png" in kinds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_whole_small_and_of_no_machine(path):
    text = path.read_text()
    assert len(text) < 300_000
    assert not re.search(r"/(home|root|tmp|work|Users)/|127\.0\.0\.1|localhost|https?://(?!arxiv)", text)
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    assert all(cell.outputs for cell in code if re.search(r"print\(|\.show\(", cell.source))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["1_first_dictionary", "2_acting", "3_comparing"]
