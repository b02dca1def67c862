"""Every command and every line of Python of docs/tutorial.md works, in order.

The model and text of the package index are exchanged for a small model and small text; all else is real.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from conftest import sentences
from exemplar_partitioning import cli
from exemplar_partitioning.demo import corpus
from exemplar_partitioning.demo.models import PACKAGED_MODELS
from exemplar_partitioning.models.identity import weights_hash_of
from exemplar_partitioning.text.readers import Document

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
MODEL = "smollm2-135m-instruct-c1"


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every block of code that is typed by the reader."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def weights(folder: Path) -> str:
    return weights_hash_of(load_file(folder / "model.safetensors"))


@pytest.fixture
def small_world(tiny_folder, tmp_path, monkeypatch):
    """An empty folder to work in, and a cache whose packaged model is a tiny one."""
    model = tmp_path / "cache" / "models" / MODEL
    shutil.copytree(tiny_folder, model)
    (model / "source.json").write_text(json.dumps({"files": {}}))
    exchanged = replace(PACKAGED_MODELS["smollm2-135m-instruct"], weights=weights(model))
    monkeypatch.setitem(PACKAGED_MODELS, exchanged.name, exchanged)
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))
    texts = [Document(f"small/{i}", text) for i, text in enumerate(sentences(550, seed=2))]
    monkeypatch.setattr(corpus, "read_corpus", lambda reading: iter(texts))
    monkeypatch.chdir(tmp_path)


def test_the_tutorial_runs(small_world):
    scope: dict = {}
    said = io.StringIO()
    found = blocks(PAGE.read_text())
    assert {language for language, _ in found} == {"sh", "python"}
    with contextlib.redirect_stdout(said):
        for language, text in found:
            if language == "python":
                exec(compile(text, PAGE.name, "exec"), scope)
                continue
            for line in text.replace("\\\n", " ").splitlines():
                program, *arguments = shlex.split(line)
                assert program == "ep"
                cli.app(arguments, standalone_mode=False)
    assert len(scope["d"]) > 5 and scope["features"].shape == (len(scope["x"]), scope["d"].k)
    assert 0 <= scope["found"].persisted.mean() <= 1
