"""Every command and line of Python of docs/tutorial.md works, in order; of how-to, those that act on a folder, too.

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

import exemplar_partitioning as ep
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


HOW_TO = PAGE.parent / "how-to"
ACTING = {
    "show",
    "steer",
    "export",
    "report",
    "figures",
    "check",
    "localise",
}  # need no more than a dictionary


@pytest.fixture
def mine(small_world):
    """The folder that pages of how-to call `mine`, and what they leave to the reader."""
    ep.build("smollm2-135m-instruct", out="mine", percentiles=[2, 20], max_tokens=6_000)
    ep.annotate("mine", max_tokens=6_000)
    prompts = ["a b c d", "b c d e", "c d e f", "d e f g"]
    for name, lines in (("showing", prompts[:2]), ("others", prompts[2:])):
        Path(f"{name}.txt").write_text("\n".join(lines))
    model = ep.load_model("smollm2-135m-instruct")
    return {"ep": ep, "model": model, "prompts": prompts, "shows": [True, True, False, False]}


def test_how_to_pages_that_act_on_a_dictionary_run(mine):
    ran = []
    with contextlib.redirect_stdout(io.StringIO()):
        for page in ("explore-label", "steer", "localise", "export", "resume-extend", "own-activations"):
            scope = dict(mine)
            for language, text in blocks((HOW_TO / f"{page}.md").read_text()):
                if language == "python" and page in ("steer", "localise", "own-activations"):
                    exec(compile(text, page, "exec"), scope)
                    continue
                for line in text.splitlines() if language == "sh" else ():
                    words = shlex.split(line.replace("region 303", "region 3"), comments=True)[1:]
                    if words[:2] in [[verb, "mine"] for verb in ACTING]:
                        cli.app(words, standalone_mode=False)
                        ran.append(words[0])
    assert {*ran} == ACTING
    assert Path("exported", "cfg.json").is_file() and Path("report.html").is_file()
