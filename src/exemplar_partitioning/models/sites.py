"""Names of places in a model: one canonical spelling, foreign ones, globs, and modules by their path.

| meaning               | canonical         | TransformerLens (and 4)                | at the module          |
|-----------------------|-------------------|----------------------------------------|------------------------|
| stream before block L | `resid_pre.L`     | `blocks.L.hook_resid_pre` (`hook_in`)  | `model.layers.L:input` |
| stream after block L  | `resid_post.L`    | `blocks.L.hook_resid_post` (`hook_out`)| `model.layers.L`       |
| what attention adds   | `attn_out_post.L` | `blocks.L.hook_attn_out`               | of the module or norm  |
| what the MLP adds     | `mlp_out_post.L`  | `blocks.L.hook_mlp_out`                | of the module or norm  |
| stream between them   | `resid_mid.L`     | `blocks.L.hook_resid_mid`              | before + attention     |
| queries, keys, values | `q.L` `k.L` `v.L` | `blocks.L.attn.hook_q`, ...            | `...self_attn.q_proj:out` |
| what heads found      | `z.L`             | `blocks.L.attn.hook_z`                 | `...self_attn.o_proj:in`  |
| hidden layer of an MLP| `mlp_act.L`       | `blocks.L.mlp.hook_post`               | `...mlp.down_proj:in`     |
| choice of experts     | `router_logits.L` |                                        | `...mlp.gate:out`         |
| embedded tokens       | `embeddings`      | `hook_embed`                           | `model.embed_tokens:out`  |
| after the last norm   | `final_norm`      | `unembed.hook_in`                      | `model.norm:out`          |

What goes into, or comes out of, any other module is named by its path: `model.layers.3.mlp.gate_proj:out`, written
`model.layers.3.mlp.gate_proj@out` where it names a folder. Heads are not told apart: z, q, k and v are as wide as all.

The raw output of an attention or MLP module (`attn_out.L`, `blocks.L.attn.hook_out`, `model.layers.L.self_attn`) is
what it adds to the stream only where the block has no norm in between. Where it has one, such a name could mean two
things that differ wildly, so it is refused, unless it says `:out`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import total_ordering
from typing import Literal, cast, get_args

from ..errors import EPError
from .architecture import Architecture
from .places import Side, locate, nearest

Point = Literal["resid_pre", "attn_out_post", "mlp_out_post", "resid_post"]
"""Residual stream before and after a block, and the contributions of its two halves."""

POINTS: tuple[Point, ...] = get_args(Point)  # in the order a block computes them
_IN_BLOCKS = ("resid_pre", "q", "k", "v", "z", "attn_out_post", "resid_mid", "router_logits", "mlp_act")
_IN_BLOCKS += ("mlp_out_post", "resid_post")
_BEFORE, _AFTER = -1, 1 << 20  # layers of what is no block's
_IN_MODEL = {"embeddings": _BEFORE, "final_norm": _AFTER}
_LENS = {
    "resid_pre": "hook_resid_pre",
    "attn_out_post": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp_out_post": "hook_mlp_out",
    "resid_post": "hook_resid_post",
    **{point: f"attn.hook_{point}" for point in "qkvz"},
    "mlp_act": "mlp.hook_post",
}
_LENS_OF_MODEL = {"embeddings": "hook_embed", "final_norm": "unembed.hook_in"}
_FROM_LENS: dict[str, str] = {
    **{name: point for point, name in _LENS.items()},
    **{name.rpartition(".")[2]: point for point, name in _LENS.items()},
    "hook_in": "resid_pre",
    "hook_out": "resid_post",
}
_ALSO = {"value": "v", "q_norm_in": "q", "k_norm_in": "k", "mlp_post": "mlp_act"}  # of interp-engine; short ones
_RAW = {"attn": "attn_out_post", "mlp": "mlp_out_post"}
_INSIDE_NORM = "ln_final.hook_normalized"


@total_ordering
@dataclass(frozen=True)
class Site:
    """One place in a model; ordered as a forward pass reaches them."""

    layer: int
    """Block number, from 0; below 0 or beyond all blocks for what is in none."""
    point: str
    """One of those in the table above, or a module's path with `@in` or `@out`."""

    def __str__(self) -> str:
        return self.point if self.point in _IN_MODEL or "@" in self.point else f"{self.point}.{self.layer}"

    def __lt__(self, other: Site) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, int, str]:
        place = _IN_BLOCKS.index(self.point) if self.point in _IN_BLOCKS else len(_IN_BLOCKS)
        return self.layer, place, self.point

    @property
    def in_stream(self) -> bool:
        """Whether it is the residual stream, or what is added to it: as wide, and read by all that follows."""
        return self.point in POINTS or self.point == "resid_mid"

    @property
    def transformer_lens(self) -> str | None:
        """The name SAELens, Neuronpedia and TransformerLens give it, e.g. `blocks.12.hook_resid_post`."""
        if self.point in _LENS:
            return f"blocks.{self.layer}.{_LENS[self.point]}"
        return _LENS_OF_MODEL.get(self.point)

    def place(self, architecture: Architecture) -> tuple[str, Side]:
        """Path of a module, and the side of it that this is; EPError where the model has no such place."""
        if "@" in self.point:
            path, _, side = self.point.partition("@")
            return path, cast(Side, side)
        return locate(architecture, self.point, self.layer)

    def module_path(self, architecture: Architecture) -> str | None:
        """Path of the module whose output this is, or, with `:input` or `:in`, whose input; None where it is no one's.

        The four points of the stream are written as they always were, without `:out`.
        """
        path, side = self.place(architecture)
        if self.point == "resid_mid":
            return None
        if self.point in POINTS:
            return f"{path}:input" if side == "in" else path
        return f"{path}:{side}"


def resolve_sites(spec: str | Iterable[str], architecture: Architecture) -> tuple[Site, ...]:
    """The sites meant by a comma list, or by several: names in any spelling, or globs.

    Globs are those of the shell: `resid_post.*`, `resid_post.1[0-5]`; `*.7` means the four points of the stream;
    over modules a side is named: `model.layers.*.mlp.down_proj:in`.

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
    """The site of a canonical or TransformerLens name, or of a path with its side, of whatever model; else None."""
    if (parsed := _canonical(name) or _lens(name)) is not None:
        return None if parsed[2] else Site(parsed[0], parsed[1])
    return _at(*sided) if (sided := _sided(name)) is not None else None


def _resolve(name: str, architecture: Architecture) -> list[Site]:
    if any(sign in name for sign in "*?["):
        return _matching(name, architecture)
    if name == _INSIDE_NORM:
        raise EPError(
            f"{name} is inside the final norm, before its gain, where no module ends; write 'final_norm' for what "
            f"comes out of the norm. {_valid(architecture)}"
        )
    parsed = _canonical(name) or _lens(name)
    if parsed is None:
        return [_by_path(name, architecture)]
    layer, point, raw = parsed
    site = Site(layer, point)
    if layer >= architecture.n_layers and point not in _IN_MODEL:
        raise EPError(f"site {name!r} is out of range: there is no block {layer}. {_valid(architecture)}")
    if raw and architecture.has_post_norms:
        raise _ambiguous(name, site, architecture)
    site.place(architecture)  # refuses parts this block does not have
    return [site]


def _matching(name: str, architecture: Architecture) -> list[Site]:
    if (sided := _sided(name)) is not None:
        pattern, side = sided
        paths = [path for path, _ in architecture.model.named_modules() if fnmatchcase(path, pattern)]
        matching = [_canonical_at(path, side, architecture) for path in paths]
    else:
        point = name.rpartition(".")[0]
        points = (point,) if point in _IN_BLOCKS else POINTS
        sites = [Site(layer, point) for layer in range(architecture.n_layers) for point in points]
        matching = [site for site in sites if fnmatchcase(str(site), name)]
    if not matching:
        raise EPError(f"the pattern {name!r} matches no site. {_valid(architecture)}")
    for site in matching:
        site.place(architecture)
    return matching


# Each parser answers (layer, point, whether the name is that of a module's raw output), or None.
_Parsed = tuple[int, str, bool] | None


def _canonical(name: str) -> _Parsed:
    if name in _IN_MODEL:
        return _IN_MODEL[name], name, False
    if match := re.fullmatch(r"([a-z_]+)\.(\d+)", name):
        point, layer = _ALSO.get(match[1], match[1]), int(match[2])
        if point in ("attn_out", "mlp_out"):
            return layer, f"{point}_post", True
        return (layer, point, False) if point in _IN_BLOCKS else None
    return None


def _lens(name: str) -> _Parsed:
    if match := re.fullmatch(r"blocks\.(\d+)\.(attn|mlp)\.hook_out", name):
        return int(match[1]), _RAW[match[2]], True
    if (match := re.fullmatch(r"blocks\.(\d+)\.([\w.]+)", name)) and match[2] in _FROM_LENS:
        return int(match[1]), _FROM_LENS[match[2]], False
    return next(((_IN_MODEL[point], point, False) for point, lens in _LENS_OF_MODEL.items() if lens == name), None)


def _sided(name: str) -> tuple[str, Side] | None:
    match = re.fullmatch(r"([^:@]+)[:@](in|out)(?:put)?", name)
    return None if match is None else (match[1], cast(Side, match[2]))


def _at(path: str, side: Side) -> Site:
    layer = next((int(part) for part in path.split(".") if part.isdigit()), _AFTER)
    return Site(layer, f"{path}@{side}")


def _canonical_at(path: str, side: Side, architecture: Architecture) -> Site:
    """A module's side, by the name that it has, if it has one."""
    if not path.startswith(f"{architecture.path}."):
        named = [Site(layer, point) for point, layer in _IN_MODEL.items()]
    elif (layer := path.removeprefix(f"{architecture.path}.").partition(".")[0]).isdigit():
        named = [Site(int(layer), point) for point in _IN_BLOCKS if point != "resid_mid"]
    else:
        named = []
    for site in named:
        try:
            if site.place(architecture) == (path, side):
                return site
        except EPError:  # a block without this place
            continue
    return _at(path, side)


def _by_path(name: str, architecture: Architecture) -> Site:
    path, side = _sided(name) or (name, None)
    modules = [known for known, _ in architecture.model.named_modules() if known]
    if path not in modules:
        match = re.match(rf"{re.escape(architecture.path)}\.(\d+)(\.|$)", path)
        if match and int(match[1]) >= architecture.n_layers:
            raise EPError(f"site {name!r} is out of range: there is no block {match[1]}. {_valid(architecture)}")
        raise EPError(
            f"unknown site {name!r}: it is no name of a place, and {architecture.class_name} has no module of that "
            f"path; the nearest is {nearest(path, modules)}. {_valid(architecture)}"
        )
    site = _canonical_at(path, side or "out", architecture)
    if side is None and architecture.has_post_norms:
        block, _, part = path.rpartition(".")
        layer = block.removeprefix(f"{architecture.path}.")
        for half, point in _RAW.items() if layer.isdigit() else ():
            if part == architecture.raw_output(int(layer), half):
                raise _ambiguous(name, Site(int(layer), point), architecture)
    return site


def _ambiguous(name: str, site: Site, architecture: Architecture) -> EPError:
    raw = architecture.raw_output(site.layer, site.point.partition("_")[0])
    return EPError(
        f"site {name!r} is ambiguous: {architecture.class_name} normalises that module's output before "
        f"adding it to the residual stream, so output and contribution differ. For the contribution write "
        f"{str(site)!r}, for the raw output '{architecture.path}.{site.layer}.{raw}:out'"
    )


def _valid(architecture: Architecture) -> str:
    last = architecture.n_layers - 1
    points = [f"{point}.L" for point in (*POINTS, *(point for point in _IN_BLOCKS if point not in POINTS))]
    return (
        f"Valid on {architecture.class_name}: {', '.join(points)} with L from 0 to {last}; {', '.join(_IN_MODEL)}; "
        f"blocks.L.hook_resid_post and the like; any module's path with :in or :out, as {architecture.path}.L:out; "
        "and globs such as 'resid_post.*'."
    )
