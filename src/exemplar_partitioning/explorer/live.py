"""Text of the moment, read through a dictionary."""

from __future__ import annotations

import threading
from typing import Any

from ..errors import EPError
from ..models.load import LoadedModel
from ..reading import read
from .library import View
from .views import brief

LIMIT = 20_000  # characters of a text


class Live:
    """A loaded model that reads one text at a time."""

    def __init__(self, loaded: LoadedModel):
        self.loaded = loaded
        self._lock = threading.Lock()

    def read(self, view: View, text: str) -> dict[str, Any]:
        """Every token with its region and distance, and a few words about each region that occurs.

        Raises EPError if the dictionary is another model's, or the text is empty or too long.
        """
        if len(text) > LIMIT:
            raise EPError(f"the text has {len(text):,} characters; give at most {LIMIT:,}")
        with self._lock:
            tokens = [token.as_json() for token in read([view.dictionary], self.loaded, text)[0]]
        regions = sorted({token["region"] for token in tokens if token["region"] is not None})
        return {
            "threshold": view.dictionary.threshold,
            "tokens": tokens,
            "regions": {str(row["region"]): row for row in brief(view, regions)},
        }
