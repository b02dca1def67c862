"""Lines of the installable package by room, at a revision and now: `python -m tools.sizes REVISION`."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "src/exemplar_partitioning"


def files(revision: str | None) -> Iterator[tuple[str, str]]:
    """Room and text of every Python file."""
    if revision is None:
        for path in (ROOT / PACKAGE).rglob("*.py"):
            yield path.relative_to(ROOT / PACKAGE).parts[0], path.read_text(encoding="utf-8")
        return
    archive = subprocess.run(["git", "archive", revision, PACKAGE], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.name.endswith(".py") and (file := tar.extractfile(member)):
                yield member.name.removeprefix(f"{PACKAGE}/").split("/")[0], file.read().decode()


def statements(text: str) -> int:
    """Lines that hold code: without blank ones, comments, docstrings and imports."""
    aside: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node) is not None:
            node = node.body[0]
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        aside.update(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in aside for n, line in lines)


def table(revision: str) -> str:
    """Markdown: a row a room, the largest first."""
    before, now, code = Counter[str](), Counter[str](), Counter[str]()
    for room, text in files(revision):
        before[room] += len(text.splitlines())
    for room, text in files(None):
        now[room] += len(text.splitlines())
        code[room] += statements(text)
    rooms = [room for room, _ in now.most_common()]
    rows = [(room.removesuffix(".py"), before[room], now[room], code[room]) for room in rooms]
    rows.append(("all", before.total(), now.total(), code.total()))
    head = f"| room | lines at {revision} | lines now | of code |\n|---|---:|---:|---:|\n"
    return head + "".join(f"| {room} | {a:,} | {b:,} | {c:,} |\n" for room, a, b, c in rows)


if __name__ == "__main__":
    sys.stdout.write(table(sys.argv[1]))
