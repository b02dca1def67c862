"""What notebooks show of an object: a name, and what there is to know in two columns."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ..text.visible import visible


def facts(title: str, values: Mapping[str, Any]) -> str:
    """A heading and a table; numbers as people read them."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{_said(value)}</td></tr>'
        for name, value in values.items()
        if value is not None
    )
    return f"<b>{escape(visible(title))}</b><table>{rows}</table>"


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else escape(visible(str(value)))
