"""Text of unknown origin, made safe to show on one line."""

from __future__ import annotations

import unicodedata

_NAMED = {"\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d"}
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def visible(text: str) -> str:
    """Text on one line that cannot steer a terminal: control and direction characters become symbols."""
    return "".join(_NAMED.get(c, "\ufffd") if unicodedata.category(c) in _UNSEEN else c for c in text)
