"""One region as an object to look at: `d[42]`, shown as text or, in a notebook, with its examples shaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..text.visible import visible
from .annotation import BIN_WIDTH
from .interest import ordered
from .labels import Label, Labels, detection

if TYPE_CHECKING:
    from .dictionary import StoredDictionary

_NEAR, _SHOWN = 6, 6  # nearest regions; examples of a kind
_CARD = "font:14px/1.45 system-ui,sans-serif;max-width:52em;margin:1em auto;padding:0 1em;color:#222;background:#fff"
_BARS = 48  # pixels of the highest bar


@dataclass(frozen=True, eq=False)
class Region:
    """A region of a dictionary; what is known of it is read when asked for.

    Attributes:
        dictionary: whose region it is.
        index: its number.
    """

    dictionary: StoredDictionary
    index: int

    def __repr__(self) -> str:
        size = f", {self.members:,} members" if self.members is not None else ""
        return f"Region({self.index}: {visible(self.label.text)}{size})"

    @cached_property
    def label(self) -> Label:
        """The best there is."""
        return Labels.read(self.dictionary).best(self.index)

    @property
    def exemplar(self) -> dict[str, Any]:
        """Where the exemplar was observed: its row of regions.parquet."""
        return self.dictionary.region(self.index)

    @property
    def direction(self) -> np.ndarray:
        """[d] unit direction of the exemplar, from the centre."""
        return self.dictionary.exemplars[self.index].numpy()

    @cached_property
    def evidence(self) -> dict[str, Any] | None:
        """Its row of the annotation, with what makes it interesting and its contrast lens; None without annotation."""
        if not self.dictionary.annotated:
            return None
        annotation = self.dictionary.annotation
        more = {"interest": annotation.interest.row(self.index), "beyond": annotation.interest.beyond(self.index)}
        return annotation.region(self.index) | more

    @property
    def members(self) -> int | None:
        """How many activations belong to it; None without annotation."""
        return None if self.evidence is None else self.evidence["members"]

    def examples(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Members in context: see `Annotation.examples`.

        Args:
            kind: one of `nearest`, `random` and `farthest`; None for all.

        Returns:
            Rows as `Annotation.examples` gives them.
        """
        return self.dictionary.annotation.examples(self.index, kind)

    def neighbours(self, top: int = _NEAR) -> list[tuple[Region, float]]:
        """The regions with the nearest exemplars, and their cosines.

        Args:
            top: how many.

        Returns:
            Pairs of region and cosine, nearest first.
        """
        cosine_k = (self.dictionary.exemplars @ self.dictionary.exemplars[self.index]).numpy()
        order = [int(i) for i in np.argsort(-cosine_k, kind="stable")[: top + 1] if i != self.index][:top]
        return [(Region(self.dictionary, i), float(cosine_k[i])) for i in order]

    def _repr_html_(self) -> str:
        row, evidence = self.exemplar, self.evidence
        about = f"({_text(self.label.source)}{detection(self.label.score)})"
        parts = [f"<b>Region {self.index}</b> <bdi>{_text(self.label.text)}</bdi> {about}"]
        parts.append(f"<bdi>{_text(str(row['context'] or ''))}<mark>{_text(str(row['token'] or ''))}</mark></bdi>")
        if evidence is not None:
            numbers = {name: evidence[name] for name in ("members", "coherence", "mean_distance", "stability")}
            numbers |= {"one word": evidence["interest"]["identity"], "documents": evidence["interest"]["documents"]}
            parts.append(", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in numbers.items()))
            parts.append(self._histogram())
            parts += [self._examples(kind) for kind in ("nearest", "random")]
            parts.append("tokens " + _tokens(row["token"] for row in evidence["top_tokens"]))
            beyond = _tokens(row["token"] for row in evidence["beyond"])
            parts.append(f"promotes, beyond the average region {beyond or 'nothing'}")
        near = (
            f"{region.index} <bdi>{_text(region.label.text)}</bdi> {cosine:.2f}" for region, cosine in self.neighbours()
        )
        parts.append("nearest regions: " + "; ".join(near))
        return "".join(f'<div style="margin:4px 0">{part}</div>' for part in filter(None, parts))

    def card(self) -> str:
        """One HTML file about it, to send or to keep: no script, nothing from elsewhere."""
        config = self.dictionary.config
        where = f"{config.model.id} {config.site.name}, percentile {config.calibration.percentile:g}"
        title = _text(f"Region {self.index}: {self.label.text}")
        about = f"{_text(where)}, {self.dictionary.k:,} regions; {self.dictionary.content_id[:16]}"
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"/>'
            f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>"
            f'<meta name="viewport" content="width=device-width, initial-scale=1"/><title>{title}</title></head>'
            f'<body style="{_CARD}">{self._repr_html_()}<p style="color:#666">{about}</p></body></html>'
        )

    def _histogram(self) -> str:
        counts = self.dictionary.annotation.histogram[self.index]
        if not counts.any():
            return ""
        end, theta = int(np.flatnonzero(counts)[-1]) + 1, self.dictionary.threshold
        colours = ["#2766b1" if i * BIN_WIDTH < theta else "#b3460e" for i in range(end)]
        bar = '<span style="display:inline-block;width:7px;margin-right:1px;height:{}px;background:{}"></span>'
        heights = [round(_BARS * n / counts.max()) for n in counts[:end].tolist()]
        bars = [bar.format(height, colour) for height, colour in zip(heights, colours, strict=True)]
        return f"{''.join(bars)} distance to the exemplar, 0 to {end * BIN_WIDTH:.2f}; theta {theta:.3f}"

    def _examples(self, kind: str) -> str:
        rows = self.examples(kind)[:_SHOWN]
        lines = "".join(f"<li><bdi>{_shaded(row, self.dictionary.threshold)}</bdi></li>" for row in rows)
        return f'{kind}<ul style="margin:0">{lines}</ul>' if rows else ""


def table(dictionary: StoredDictionary) -> pa.Table:
    """A row for each region, the most interesting first: label, exemplar, counts, what its members are and promote."""
    exemplars = dictionary.regions
    labels = Labels.read(dictionary).every()
    columns: dict[str, Any] = {
        "region": exemplars["region"],
        "label": [label.text for label in labels],
        "label_source": [label.source for label in labels],
        "label_score": pa.array([label.score for label in labels], pa.float64()),
        **{name: exemplars[name] for name in ("token", "context", "document", "position")},
        "online_count": exemplars["arrivals"],
    }
    if dictionary.annotated:
        evidence, interest = dictionary.annotation.regions, dictionary.annotation.interest
        columns |= {name: evidence[name] for name in ("members", "coherence", "mean_distance", "stability")}
        columns |= {"interest": interest.score, "one_word": interest.identity, "documents": interest.documents}
        columns |= {"contrast": interest.contrast, "promotes": interest.promoted}
        columns["tokens"] = [[row["token"] for row in rows] for rows in evidence["top_tokens"].to_pylist()]
    return pa.table(columns).take(pa.array(ordered(dictionary)))


def _text(text: str) -> str:
    return escape(visible(text))


def _number(value: float | None) -> str:
    return "\u2013" if value is None or value != value else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _tokens(tokens: Any) -> str:
    return " ".join(f'<code style="border:1px solid #8888">{_text(token)}</code>' for token in tokens)


def _shaded(row: dict[str, Any], threshold: float) -> str:
    """Tokens in context, the nearer to the exemplar the warmer."""
    return "".join(
        f'<span style="background:rgba(242,163,58,{_warmth(distance, threshold):.2f})'
        f'{";font-weight:700;outline:1px solid" if i == row["at"] else ""}">{_text(token)}</span>'
        for i, (token, distance) in enumerate(zip(row["tokens"], row["distances"], strict=True))
    )


def _warmth(distance: float | None, threshold: float) -> float:
    """1 at distance 0, a third at theta, 0 where nothing is shared."""
    if distance is None:
        return 0.0
    edge = min(threshold, 0.95)
    if distance <= edge:
        return 1 - 2 / 3 * distance / edge
    return max(0.0, (1 - (distance - edge) / (1 - edge)) / 3)
