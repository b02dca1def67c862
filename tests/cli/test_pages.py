"""Every block of sh and Python of README, home, tutorial and how-to runs, in order, and prints what the page shows.

The model and text of the package index are exchanged for a small model and small text, and everything a how-to page
leaves to the reader lies ready; all else is real. The tutorial reads and steers with the real model until it builds.
A block that cannot run here says so in its first line, `# not run by the tests: REASON`.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import exemplar_partitioning as ep
from conftest import sentences
from exemplar_partitioning import cli
from exemplar_partitioning.demo import corpus
from exemplar_partitioning.demo.models import PACKAGED_MODELS
from exemplar_partitioning.models.identity import weights_hash_of
from exemplar_partitioning.text.readers import Document

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
MODEL = "smollm2-135m-instruct"
NOT_RUN = "# not run by the tests: "
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def blocks(page: Path) -> list[tuple[str, str, str | None]]:
    """(language, text, shown output) of every block of code that is typed by the reader."""
    code = r"^```(sh|python)\n(.*?)^```(?:\n+```text\n(.*?)^```)?"
    return [match.groups() for match in re.finditer(code, page.read_text(), re.MULTILINE | re.DOTALL)]


def runs(text: str) -> bool:
    return not text.startswith(NOT_RUN)


@pytest.fixture(scope="session")
def small_model(tiny_folder, tmp_path_factory):
    """A cache whose packaged model is a tiny one that knows a chat template."""
    cache = tmp_path_factory.mktemp("cache")
    folder = shutil.copytree(tiny_folder, cache / "models" / f"{MODEL}-c1")
    (folder / "source.json").write_text(json.dumps({"files": {}}))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return folder


def exchange(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """The packaged model is a tiny one, the packaged text is short."""
    weights = weights_hash_of(load_file(folder / "model.safetensors"))
    patch.setitem(PACKAGED_MODELS, MODEL, replace(PACKAGED_MODELS[MODEL], weights=weights))
    patch.setenv("EP_CACHE", str(folder.parents[1]))
    texts = [Document(f"small/{i}", text) for i, text in enumerate(sentences(160, seed=2))]
    patch.setattr(corpus, "read_corpus", lambda reading: iter(texts))


@pytest.fixture
def shrink(small_model, monkeypatch):
    """Makes the world small; tests call it when they want."""
    return lambda: exchange(monkeypatch, small_model)


@pytest.fixture(scope="session")
def mine(small_model, tmp_path_factory):
    """The one dictionary folder that pages of how-to call `mine`, and texts, prompts and activations beside it."""
    given = tmp_path_factory.mktemp("given")
    texts = sentences(120, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        exchange(patch, small_model)
        ep.build(MODEL, texts, out=given / "mine", percentiles=[1, 2, 4, 8, 20], max_tokens=4_000)
        ep.annotate(given / "mine", texts, max_tokens=4_000)
        label = ["political bodies", "--percentile", "2", "--region", "3"]
        cli.app(["label", str(given / "mine"), *label], standalone_mode=False)
    for name in ("other", "tuned", "step1000", "step2000", "step4000", "final"):
        shutil.copytree(given / "mine", given / name)
    for name, lines in {
        "showing": texts[:24],
        "others": texts[24:48],
        "with": texts[:16],
        "without": texts[16:32],
    }.items():
        (given / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (given / "notes.txt").write_text(texts[0])
    (given / "texts.txt").write_text("\n".join(texts[60:63]) + "\n")
    (given / "all-prompts.txt").write_text("\n".join(texts[:48]))
    turns = [({"role": "user", "content": a}, {"role": "assistant", "content": b}) for a, b in pairwise(texts)]
    rows = {"conversations": [{"messages": turn} for turn in turns], "held-out": texts[60:], "more": texts[90:]}
    rows |= {"prompts": texts[:60], "corpus": texts, "kept-apart": sentences(450, seed=5), "incoming": texts[60:64]}
    rows["spans"] = [{"text": text, "answer_span": [[0, 9]]} for text in texts]
    for name, documents in rows.items():
        lines = [json.dumps(row if isinstance(row, dict) else {"text": row, "body": row}) for row in documents]
        (given / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for folder in ("corpus", "tables", "incoming", "cache", "path/to"):
        (given / folder).mkdir(parents=True)
    shutil.copy(given / "corpus.jsonl", given / "corpus" / "part.jsonl")
    shutil.copy(given / "corpus.jsonl", given / "tables" / "part.jsonl")
    shutil.copy(given / "notes.txt", given / "incoming" / "letter.txt")
    for name in ("path/to/model", "path/to/finetuned", "model"):
        shutil.copytree(small_model, given / name)
    rng = np.random.default_rng(0)
    np.save(given / "acts.npy", rng.normal(size=(600, 24)).astype(np.float32))
    np.save(given / "ids.npy", rng.integers(3, 300, size=600))
    shutil.copy(given / "acts.npy", given / "cache" / "acts.npy")
    return given


def scope_of(page: Path) -> dict:
    """What a how-to page leaves to the reader, in Python."""
    if page.parent.name != "how-to" or not any(language == "python" for language, *_ in blocks(page)):
        return {}
    texts = sentences(40, seed=4)
    scope = {"ep": ep, "texts": texts, "prompts": texts[:24], "shows": [True] * 12 + [False] * 12}
    loaded = ep.load_model(MODEL)
    scope["model"] = loaded.model if page.stem == "own-model" else loaded  # there an object of transformers
    scope["tokenizer"] = loaded.tokenizer
    scope["d"] = ep.load("mine", percentile=4)
    scope["x"] = scope["activations"] = torch.from_numpy(np.load("acts.npy"))
    return scope


def run_line(line: str) -> None:
    """One line of a shell: `ep` with its arguments, globs and redirections."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    program, *words = words
    assert program == "ep", line
    with contextlib.ExitStack() as stack:
        for sign, redirect in ((">", contextlib.redirect_stdout), ("<", None)):
            if sign not in words:
                continue
            at = words.index(sign)
            file = stack.enter_context(Path(words[at + 1]).open("w" if sign == ">" else "r"))
            del words[at : at + 2]
            if redirect:
                stack.enter_context(redirect(file))
            else:
                stack.enter_context(pytest.MonkeyPatch.context()).setattr(sys, "stdin", file)
        words = [file for word in words for file in (sorted(map(str, Path().glob(word))) if "/*" in word else [word])]
        if "--out" in words:  # what an earlier command of the page has written
            shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
        cli.app(words, standalone_mode=False)


def run_page(page: Path, scope: dict, before_build=lambda: None) -> int:
    """Run a page's blocks in order; returns how many outputs were compared."""
    compared = 0
    for language, text, shown in blocks(page):
        if not runs(text):
            continue
        if re.search(r"^ep build", text, re.MULTILINE):
            before_build()
        with contextlib.redirect_stdout(io.StringIO()) as said:
            if language == "python":
                exec(compile(text, page.name, "exec"), scope)
            else:
                for line in text.replace("\\\n", " ").splitlines():
                    run_line(line)
        if shown is not None:
            assert alike(said.getvalue(), shown), f"{page.name} shows\n{shown}\nprinted was\n{said.getvalue()}"
            compared += 1
    return compared


def alike(printed: str, shown: str) -> bool:
    """Whether it is the same, but for the last digits of numbers and the room that a line leaves."""
    number = r"-?\d+\.\d+"

    def words(text: str) -> list[str]:
        return re.sub(number, "#", text).split()

    pairs = zip(re.findall(number, printed), re.findall(number, shown), strict=False)
    return words(printed) == words(shown) and all(abs(float(a) - float(b)) < 0.02 for a, b in pairs)


@pytest.fixture
def quiet(monkeypatch):
    """No window of a browser, no server that waits, and lines as wide as pages show them."""
    from exemplar_partitioning.show.explorer import library, server

    monkeypatch.setattr(server, "server", lambda application: SimpleNamespace(run=lambda sockets: None))
    monkeypatch.setattr(library.Library, "open_all", lambda self: None)  # a thread that would outlive the page
    monkeypatch.setattr("webbrowser.open", lambda address: None)
    monkeypatch.setenv("COLUMNS", "110")


MADE = {"export": "exported/cfg.json", "explore-label": "report.html"}  # what a reader of the page has at its end


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_page_runs(page, mine, shrink, quiet, tmp_path, monkeypatch):
    shrink()
    shutil.copytree(mine, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run_page(page, scope_of(page))
    if page.stem in MADE:
        assert (tmp_path / MADE[page.stem]).is_file()


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "index.md"], ids=lambda page: page.stem)
def test_the_first_pages_run(page, shrink, quiet, tmp_path, monkeypatch):
    shrink()
    monkeypatch.chdir(tmp_path)
    assert run_page(page, {}) == 1


@pytest.mark.packaged
def test_the_tutorial_runs(shrink, quiet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_page(DOCS / "tutorial.md", {}, before_build=shrink) >= 3


def test_what_is_not_run_says_why():
    pages = [ROOT / "README.md", DOCS / "index.md", DOCS / "tutorial.md", *HOW_TO]
    reasons = [
        text.splitlines()[0].removeprefix(NOT_RUN) for page in pages for _, text, _ in blocks(page) if not runs(text)
    ]
    assert all(len(reason) > 8 for reason in reasons)
    assert len(reasons) == 22
