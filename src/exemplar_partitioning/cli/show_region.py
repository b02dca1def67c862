"""`ep show --region`: everything known about one region."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from ..folder.annotation import BIN_WIDTH
from ..folder.labels import Labels, detection
from ..folder.origin import describe
from ..text.visible import visible
from .terminal import MARGIN, console, counted, cut, fixed, highlighted, in_context, named, place, shade

if TYPE_CHECKING:
    from ..folder.dictionary import StoredDictionary

_NEIGHBOURS = 6
_BARS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_HEIGHT = 4  # lines of the histogram
_WIDE = 100  # columns from which examples name their documents
_DOCUMENT = 24


def view(dictionary: StoredDictionary, region: int) -> dict[str, Any]:
    """What there is to say about a region, as plain values; null where the dictionary is not annotated."""
    labels, annotation = Labels.read(dictionary), dictionary.annotation if dictionary.annotated else None
    about = {"annotated_activations": annotation.record.n_activations if annotation else None}
    return {
        "dictionary": {
            "path": str(dictionary.path),
            **describe(dictionary),
            "no_lens": dictionary.config.no_lens,
            **about,
        },
        "exemplar": dictionary.region(region),
        "labels": [{"text": x.text, "source": x.source, "score": x.score} for x in labels.all(region)],
        "evidence": annotation.region(region) if annotation else None,
        "examples": annotation.examples(region) if annotation else None,
        "histogram": annotation.histogram[region].tolist() if annotation else None,
        "histogram_bin_width": BIN_WIDTH,
        "nearest_regions": _neighbours(dictionary, labels, region),
    }


def _neighbours(dictionary: StoredDictionary, labels: Labels, region: int) -> list[dict[str, Any]]:
    """Regions whose exemplars have the largest cosine with this one's."""
    cosine_k = (dictionary.exemplars @ dictionary.exemplars[region]).numpy()
    order = np.argsort(-cosine_k, kind="stable")
    nearest = [int(i) for i in order[: _NEIGHBOURS + 1] if i != region][:_NEIGHBOURS]
    return [{"region": i, "cosine": float(cosine_k[i]), "label": labels.best(i).text} for i in nearest]


def print_region(shown: dict[str, Any], top: int) -> None:
    """The view for people, with `top` examples of each kind."""
    out = console()
    for part in _parts(shown, top, out):
        out.print(part)
    if shown["evidence"] is None:
        command = f"ep annotate {shown['dictionary']['path']}"
        out.print(f"\nMembers, examples and lens are yet to come: {command}", soft_wrap=True)


def _parts(shown: dict[str, Any], top: int, out: Console) -> Iterator[RenderableType]:
    evidence = shown["evidence"]
    yield from _head(shown)
    yield from _exemplar(shown["exemplar"], out)
    if evidence is not None and evidence["members"]:
        yield ""
        yield from _distances(shown["histogram"], evidence, shown["dictionary"]["threshold"], out.width)
        yield ""
        yield from _examples(shown["examples"], shown["dictionary"]["threshold"], top, out)
        yield ""
        yield from _tokens(evidence, out.width)
    if evidence is not None:
        yield ""
        yield from _lens(evidence, out.width)
        if (why := shown["dictionary"]["no_lens"]) is not None:
            yield named("no lens", Text(why))
    yield ""
    yield from _nearest(shown["nearest_regions"], out)


def _head(shown: dict[str, Any]) -> Iterator[RenderableType]:
    d, evidence, exemplar = shown["dictionary"], shown["evidence"], shown["exemplar"]
    where = f" of {d['k']:,}   {visible(d['model'])} {d['site']} percentile {d['percentile']:g}"
    yield Text.assemble((f"region {exemplar['region']}", "bold"), where)
    for rank, label in enumerate(shown["labels"]):
        text = (visible(label["text"]), "" if rank else "bold")
        about = f"  ({visible(label['source'])}{detection(label['score'])})"
        yield named("" if rank else "label", text, (about, "dim"))
    if evidence is None:
        yield named("online", f"{counted(exemplar['arrivals'], 'activation')} came to it while it was built")
        return
    members = evidence["members"]
    if not members:
        yield named("members", "none: no token of the annotation's text is nearest to this exemplar")
        return
    share, within = members / d["annotated_activations"], evidence["within"] / members
    yield named("members", f"{members:,}, {share:.2%} of all; {within:.1%} of them within theta {d['threshold']:.3f}")
    yield named("coherence", f"{_number(evidence['coherence'])} (length of the members' mean direction, at most 1)")
    halves = f"{evidence['half']:,} and {counted(members - evidence['half'], 'member')}"
    yield named("stability", f"{_number(evidence['stability'])} (cosine of the means of two halves: {halves})")


def _number(value: float | None, digits: int = 3) -> str:
    return fixed(value, digits) or "\u2013"


def _exemplar(row: dict[str, Any], out: Console) -> Iterator[RenderableType]:
    where = f"{visible(row['document'])} @{row['position']}"
    yield named("exemplar", f"{where}   token {row['token_id']}   norm {_number(row['raw_norm'], 1)}")
    token = highlighted(visible(row["token"]), out.color_system is None)
    yield named("", (visible(row["context"]), "dim"), token)


def _distances(
    histogram: list[int], evidence: dict[str, Any], threshold: float, width: int
) -> Iterator[RenderableType]:
    """Members by distance, as bars on an axis with theta marked."""
    theta = int(threshold / BIN_WIDTH)
    end = max(theta, *(index for index, count in enumerate(histogram) if count)) + 1
    wide = 2 if 2 * end <= width - MARGIN else 1  # columns of a bar
    eighths = [max(count > 0, round(8 * _HEIGHT * count / max(histogram))) for count in histogram[:end]]
    for line in reversed(range(_HEIGHT)):
        bars = [wide * _BARS[min(8, max(0, height - 8 * line))] for height in eighths]
        name = f"{'distances' if line == _HEIGHT - 1 else '':<{MARGIN}}"
        within, beyond = "".join(bars[: theta + 1]), "".join(bars[theta + 1 :])
        yield Text.assemble((name, "dim"), (within, "cyan"), (beyond, "yellow"))
    mean = f"mean {evidence['mean_distance']:.3f} \u00b1 {_number(evidence['std_distance'])}"
    yield Text(" " * MARGIN + f"{'0':<{wide * theta}}\u2191 theta")
    yield named("", mean)


def _examples(rows: list[dict[str, Any]], threshold: float, top: int, out: Console) -> Iterator[RenderableType]:
    document = _DOCUMENT if out.width >= _WIDE else 0
    width = out.width - MARGIN - 7 - (document + 2 if document else 0)
    for kind in ("nearest", "random", "farthest"):
        for rank, row in enumerate([row for row in rows if row["kind"] == kind][:top]):
            styles = [shade(distance, threshold) for distance in row["distances"]]
            name = f"{'' if rank else kind:<{MARGIN}}"
            known = any(row["tokens"])  # else the row that an activation was is all there is to tell
            tokens = row["tokens"] if known else [place(row, width)]
            line = in_context(tokens, row["at"], styles, width, marked=known and out.color_system is None)
            parts = [(name, "dim"), f"{row['distance']:.3f}  ", line]
            if document and known:
                parts.append((f"  {place(row, document)}", "dim"))
            yield Text.assemble(*parts, no_wrap=True)


def _tokens(evidence: dict[str, Any], width: int) -> Iterator[RenderableType]:
    for name, column in (("token", "top_tokens"), ("before it", "before_tokens")):
        counted = [
            (row["token"], f"{row['count'] / evidence['members']:.0%} {_times(row['lift'])}")
            for row in evidence[column]
        ]
        yield named(name, _listed(counted, width - MARGIN))


def _share(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.0005 else "<0.1%"


def _times(lift: float) -> str:
    if lift > 999:
        return "\u00d7>999"  # of what hardly occurs otherwise
    return f"\u00d7{lift:.1f}" if 0.05 <= lift < 10 else f"\u00d7{lift:.2g}" if lift < 1 else f"\u00d7{lift:.0f}"


def _lens(evidence: dict[str, Any], width: int) -> Iterator[RenderableType]:
    """What a step along the exemplar and, below it, along the mean direction makes likelier: probability and lift."""
    for name, end in (("promotes", "top"), ("suppresses", "bottom")):
        for source, column in ((name, f"lens_{end}"), ("  its mean", f"mean_lens_{end}")):
            if evidence[column]:
                tokens = [
                    (row["token"], f"{_share(row['probability'])} {_times(row['lift'])}") for row in evidence[column]
                ]
                yield named(source, _listed(tokens, width - MARGIN))


def _listed(values: list[tuple[str, str]], width: int) -> Text:
    """Tokens in quotes, with their spaces, each with what was measured: as many as two lines hold."""
    lines = [Text()]
    for token, value in values:
        item = Text.assemble(f"\u201c{cut(visible(token), 20)}\u201d", (f" {value}", "dim"))
        if lines[-1].cell_len + item.cell_len > width:
            if len(lines) == 2:
                break
            lines.append(Text())
        lines[-1].append_text(item).append("  ")
    return Text("\n").join(lines) if values else Text("\u2013", style="dim")


def _nearest(neighbours: list[dict[str, Any]], out: Console) -> Iterator[RenderableType]:
    for rank, row in enumerate(neighbours):
        start = f"{'' if rank else 'neighbours':<{MARGIN}}"
        number = f"cosine {row['cosine']:.3f}   region {row['region']:<7}"
        room = out.width - cell_len(start + number)
        yield Text.assemble((start, "dim"), number, cut(visible(row["label"]), room), no_wrap=True)
