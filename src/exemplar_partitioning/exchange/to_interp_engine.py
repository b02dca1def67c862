"""interp-engine: a `DirectionSet`, in the form that its server's /project takes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import EPError
from ..folder.dictionary import StoredDictionary

HOW = """import pathlib
from interp_engine.server.schemas import DirectionSetWire
text = pathlib.Path("{path}/direction_set.json").read_text()
directions = DirectionSetWire.model_validate_json(text).to_engine()"""


_POINTS = {"q": "q_norm_in", "k": "k_norm_in", "v": "value"}  # where they are called otherwise


def write(dictionary: StoredDictionary, folder: Path) -> None:
    """direction_set.json."""
    (folder / "direction_set.json").write_text(json.dumps(direction_set(dictionary)))


def direction_set(dictionary: StoredDictionary) -> dict[str, Any]:
    """The projections `(x - c) . e` of all regions (readout "signed"): vectors e, bias - c . e."""
    bias_k = -(dictionary.exemplars.double() @ dictionary.center.double()).float()
    return {
        "point": _point(dictionary.config.site.name),
        "vectors": _payload(dictionary.exemplars),
        "bias": _payload(bias_k),
        "nonlinearity": "none",
    }


def _point(site: str) -> str:
    """The name there; EPError where there is none."""
    point, dot, layer = site.rpartition(".")
    if point in _POINTS:
        return _POINTS[point] + dot + layer
    if site.endswith("@in"):
        raise EPError(f"interp-engine names what comes out of modules; it has no name for {site}")
    return site.removesuffix("@out")


def _payload(tensor: Tensor) -> dict[str, Any]:
    raw = tensor.contiguous().numpy().astype("<f4").tobytes()
    return {"dtype": "float32", "shape": list(tensor.shape), "data": base64.b64encode(raw).decode("ascii")}
