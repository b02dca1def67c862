"""interp-engine: a `DirectionSet`, in the form that its server's /project takes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..folder.dictionary import StoredDictionary

HOW = """import pathlib
from interp_engine.server.schemas import DirectionSetWire
text = pathlib.Path("{path}/direction_set.json").read_text()
directions = DirectionSetWire.model_validate_json(text).to_engine()"""


def write(dictionary: StoredDictionary, folder: Path) -> None:
    """direction_set.json."""
    (folder / "direction_set.json").write_text(json.dumps(direction_set(dictionary)))


def direction_set(dictionary: StoredDictionary) -> dict[str, Any]:
    """The projections `(x - c) . e` of all regions (readout "signed"): vectors e, bias - c . e."""
    bias_k = -(dictionary.exemplars.double() @ dictionary.center.double()).float()
    return {
        "point": dictionary.config.site.name,
        "vectors": _payload(dictionary.exemplars),
        "bias": _payload(bias_k),
        "nonlinearity": "none",
    }


def _payload(tensor: Tensor) -> dict[str, Any]:
    raw = tensor.contiguous().numpy().astype("<f4").tobytes()
    return {"dtype": "float32", "shape": list(tensor.shape), "data": base64.b64encode(raw).decode("ascii")}
