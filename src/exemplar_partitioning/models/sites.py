"""Names of places in the residual stream: one canonical spelling, two foreign ones, and globs.

| meaning              | canonical         | TransformerLens (and 4)              | module path            |
|----------------------|-------------------|--------------------------------------|------------------------|
| stream before block L| `resid_pre.L`     | `blocks.L.hook_resid_pre` (`hook_in`)| `model.layers.L:input` |
| stream after block L | `resid_post.L`    | `blocks.L.hook_resid_post` (`hook_out`)| `model.layers.L`     |
| what attention adds  | `attn_out_post.L` | `blocks.L.hook_attn_out`             | of the module or norm  |
| what the MLP adds    | `mlp_out_post.L`  | `blocks.L.hook_mlp_out`              | of the module or norm  |

The raw output of an attention or MLP module (`attn_out.L`, `blocks.L.attn.hook_out`,
`model.layers.L.self_attn`) is what it adds to the stream only where the block has no norm in between. Where
it has one, such a name could mean two things that differ wildly, so it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import total_ordering
from typing import Literal, get_args

from ..errors import EPError
from .architecture import Architecture

Point = Literal["resid_pre", "attn_out_post", "mlp_out_post", "resid_post"]
"""Residual stream before and after a block, and the contributions of its two halves."""

POINTS: tuple[Point, ...] = get_args(Point)  # in the order a block computes them
_LENS = {
    "resid_pre": "hook_resid_pre",
    "attn_out_post": "hook_attn_out",
    "mlp_out_post": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}
_FROM_LENS: dict[str, Point] = {
    "hook_resid_pre": "resid_pre",
    "hook_in": "resid_pre",
    "hook_attn_out": "attn_out_post",
    "hook_mlp_out": "mlp_out_post",
    "hook_resid_post": "resid_post",
    "hook_out": "resid_post",
}
_PART = {"attn_out_post": "attn", "mlp_out_post": "mlp"}


@total_ordering
@dataclass(frozen=True)
class Site:
    """One place in the residual stream of a model; ordered as a forward pass reaches them."""

    layer: int
    """Block number, from 0."""
    point: Point

    def __str__(self) -> str:
        return f"{self.point}.{self.layer}"

    def __lt__(self, other: Site) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, int]:
        return self.layer, POINTS.index(self.point)

    @property
    def transformer_lens(self) -> str:
        """The name SAELens, Neuronpedia and TransformerLens give it, e.g. `blocks.12.hook_resid_post`."""
        return f"blocks.{self.layer}.{_LENS[self.point]}"

    def module_path(self, architecture: Architecture) -> str:
        """Path of the module whose output this is, e.g. `model.layers.12`; with `:input`, whose input it is."""
        block = f"{architecture.path}.{self.layer}"
        if self.point == "resid_post":
            return block
        if self.point == "resid_pre":
            return f"{block}:input"
        return f"{block}.{architecture.contribution(self.layer, _PART[self.point])}"


def resolve_sites(spec: str | Iterable[str], architecture: Architecture) -> tuple[Site, ...]:
    """The sites meant by a comma list, or by several: names in any spelling, or globs over canonical names.

    Globs are those of the shell: `resid_post.*`, `resid_post.1[0-5]`, `*.7`.

    Returns:
        Sites without duplicates, in the order a forward pass reaches them.

    Raises:
        EPError: a name is unknown, out of range or ambiguous on this architecture, a glob matches nothing, or
            there is no name at all.
    """
    specs = [spec] if isinstance(spec, str) else list(spec)
    names = [name.strip() for entry in specs for name in entry.split(",") if name.strip()]
    if not names:
        raise EPError(f"no site was named. {_valid(architecture)}")
    resolved: set[Site] = set()
    for name in names:
        resolved.update(_resolve(name, architecture))
    return tuple(sorted(resolved))


def named_site(name: str) -> Site | None:
    """The site of a canonical or TransformerLens name, of whatever model; None for other names."""
    parsed = _canonical(name) or _lens(name)
    return None if parsed is None or parsed[2] else Site(parsed[0], parsed[1])


def _resolve(name: str, architecture: Architecture) -> list[Site]:
    if any(sign in name for sign in "*?["):
        sites = [Site(layer, point) for layer in range(architecture.n_layers) for point in POINTS]
        matching = [site for site in sites if fnmatchcase(str(site), name)]
        if not matching:
            raise EPError(f"the pattern {name!r} matches no site. {_valid(architecture)}")
        for site in matching:
            site.module_path(architecture)  # refuses parts this block does not have
        return matching
    parsed = _canonical(name) or _lens(name) or _path(name, architecture)
    if parsed is None:
        raise EPError(f"unknown site {name!r}. {_valid(architecture)}")
    layer, point, raw = parsed
    if layer >= architecture.n_layers:
        raise EPError(f"site {name!r} is out of range: there is no block {layer}. {_valid(architecture)}")
    site = Site(layer, point)
    if raw and architecture.has_post_norms:
        raise EPError(
            f"site {name!r} is ambiguous: {architecture.class_name} normalises that module's output before "
            f"adding it to the residual stream, so output and contribution differ. For the contribution write "
            f"{str(site)!r}; the raw output is not part of the stream and is not offered."
        )
    site.module_path(architecture)
    return [site]


# Each parser answers (layer, point, whether the name is that of a module's raw output), or None.
_Parsed = tuple[int, Point, bool] | None


def _canonical(name: str) -> _Parsed:
    if match := re.fullmatch(r"(resid_pre|resid_post|attn_out|mlp_out|attn_out_post|mlp_out_post)\.(\d+)", name):
        point, layer = match.groups()
        if point in ("attn_out", "mlp_out"):
            return int(layer), ("attn_out_post" if point == "attn_out" else "mlp_out_post"), True
        return int(layer), point, False  # pyright: ignore[reportReturnType]
    return None


def _lens(name: str) -> _Parsed:
    if match := re.fullmatch(r"blocks\.(\d+)\.(attn|mlp)\.hook_out", name):
        return int(match[1]), ("attn_out_post" if match[2] == "attn" else "mlp_out_post"), True
    if (match := re.fullmatch(r"blocks\.(\d+)\.(\w+)", name)) and match[2] in _FROM_LENS:
        return int(match[1]), _FROM_LENS[match[2]], False
    return None


def _path(name: str, architecture: Architecture) -> _Parsed:
    match = re.fullmatch(rf"{re.escape(architecture.path)}\.(\d+)(:input|\.\w+)?", name)
    if match is None:
        return None
    layer, rest = int(match[1]), match[2]
    if rest is None:
        return layer, "resid_post", False
    if rest == ":input":
        return layer, "resid_pre", False
    # Out of range: any block of the model tells which parts there are; the caller refuses the number.
    known = min(layer, architecture.n_layers - 1)
    for point, part in _PART.items():
        if rest[1:] in _names(architecture, known, part):
            raw = rest[1:] != architecture.contribution(known, part)
            return layer, point, raw  # pyright: ignore[reportReturnType]
    return None


def _names(architecture: Architecture, layer: int, part: str) -> tuple[str, ...]:
    try:
        return architecture.contribution(layer, part), architecture.raw_output(layer, part)
    except EPError:  # a block without this part: then no name means it
        return ()


def _valid(architecture: Architecture) -> str:
    last = architecture.n_layers - 1
    return (
        f"Valid on {architecture.class_name}: {', '.join(f'{point}.L' for point in POINTS)} with L from 0 "
        f"to {last}; blocks.L.hook_resid_post and the like; {architecture.path}.L; and globs such as 'resid_post.*'."
    )
