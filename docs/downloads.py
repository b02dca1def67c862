"""The table of SECURITY.md of what the package downloads, from its pins: `make pages`."""

import re
from pathlib import Path

from exemplar_partitioning.models.packaged import PACKAGED_MODELS
from exemplar_partitioning.packaged import DEFAULT_TEXT_WHEEL

PAGE = Path(__file__).resolve().parents[1] / "SECURITY.md"


def table() -> str:
    """Every wheel that can be fetched, with its size and hash, and the licences they come under."""
    wanted = [("default text", (DEFAULT_TEXT_WHEEL,))]
    wanted += [(f"`{model.name}`", model.wheels) for model in PACKAGED_MODELS.values()]
    lines = ["| for | package | MB | sha256 |", "|---|---|--:|---|"]
    lines += [
        f"| {what} | {wheel.requirement} | {wheel.bytes / 1e6:.1f} | `{wheel.sha256}` |"
        for what, wheels in wanted
        for wheel in wheels
    ]
    return "\n".join([*lines, "", *(f"- Licence of {what}: {wheels[0].license}." for what, wheels in wanted)])


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
