"""Every message of an error in the package, read from its code: for docs/errors.md and its test."""

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "exemplar_partitioning"
KINDS = ("EPError", "DataError", "ResourceError", "Interrupted")
MARKER = "<!-- every message -->"


def messages() -> list[tuple[str, str, str]]:
    """(module, kind, message) of every error made in the package, in order; values in it as `...`."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
                text = _text(node.args[0])
                if text.strip(". "):
                    found.append((module, node.func.id, text))
    return found


def _text(node: ast.expr) -> str:
    """What a string expression says, as far as the code tells."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return _text(left) + _text(right)
    return "..."


def listing() -> str:
    """All of them as Markdown, by module."""
    lines, last = [], None
    for module, kind, text in messages():
        if module != last:
            lines.append(f"\n**{module}**\n")
            last = module
        said = " ".join(text.split()).replace("`", "'")
        lines.append(f"- {kind}: `{said}`")
    return "\n".join(lines)


if __name__ == "__main__":
    print(listing())
