"""Acting on regions: steer, ablate, project, swap and clamp, as context managers.

    with ep.ablate(model, d, region=42):
        model.generate(...)

Directions are those of exemplars (basis "exemplar"), of mean members ("mean", after `ep annotate`), or given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, TypedDict, Unpack, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.choices import Basis
from ..errors import EPError, check_choice
from ..folder.dictionary import StoredDictionary, versions
from ..models.architecture import Architecture, transformers_model
from ..models.hooks import Edit, applied
from ..models.identity import current_identity
from ..models.loaded import LoadedModel
from ..models.touched_tokens import Tokens
from . import edits
from .edits import Gate, orthonormal
from .fluency import ALPHA, strongest

Regions = int | Sequence[int]
Direction = Basis | Tensor
Around = Literal["centre", "origin"]


Acting = AbstractContextManager[None]


class Where(TypedDict, total=False):
    """Along what, where and when an intervention acts.

    A sequence without the BOS that the dictionary's windows begin with is warned of, once.

    Attributes:
        basis: "exemplar" directions, the default, "mean" ones of members, or a direction [d] of your own.
        sites: e.g. "resid_post.*"; the dictionary's own site by default. Where it is not the residual stream, others as
            wide: "mlp_act.*".
        tokens: "all", "prompt" or "generated" ones.
        gate: only activations that this lets through.
        any_model: act on a model other than the dictionary's, of the same width.
    """

    basis: Direction
    sites: str | Sequence[str] | None
    tokens: Tokens
    gate: Gate | None
    any_model: bool


def steer(
    model: Any,
    dictionary: StoredDictionary,
    region: Regions,
    *,
    alpha: float | Literal["auto"] = ALPHA,
    **where: Unpack[Where],
) -> Acting:
    """Add `alpha` typical residual norms of the (normalised sum of the) regions' directions to the activations.

    Args:
        model: a causal language model of transformers, what `ep.load_model` gives, a `TransformerBridge`, or an
            interp-engine model.
        dictionary: whose regions they are.
        region: whose direction; of several, the direction of their sum.
        alpha: in units of `dictionary.typical_norm`; negative steers away. "auto": the largest at which text still
            reads (`act.fluency.strongest`), which takes the model some tries, and its tokenizer (`ep.load_model`).
        where: see `Where`.

    Returns:
        A context manager; when it ends, nothing is left in the model.

    Raises:
        EPError: a region that does not exist, alpha that is not finite, or another model.
    """
    unit_d = direction_of(dictionary, region, where.get("basis", "exemplar"))

    def acting(alpha: float) -> Acting:
        return _act(model, dictionary, edits.add(alpha * dictionary.typical_norm * unit_d), where)

    if alpha == "auto":
        if not isinstance(model, LoadedModel):
            raise EPError("alpha='auto' has the model write, which needs its tokenizer: give what ep.load_model gives")
        return acting(strongest(model, acting))
    if isinstance(alpha, str) or not math.isfinite(alpha):
        raise EPError(f"alpha is {alpha}; expected a finite number of typical residual norms, such as 0.25, or 'auto'")
    return acting(alpha)


def ablate(
    model: Any, dictionary: StoredDictionary, region: Regions, *, around: Around = "centre", **where: Unpack[Where]
) -> Acting:
    """Project the span of the regions' directions out of the activations.

    Args:
        model: see `steer`.
        dictionary: whose regions they are.
        region: one, or several, whose span is taken out.
        around: from where the projected part is counted: the dictionary's "centre", which suits its own site, or the
            "origin", which suits other sites, whose activations lie elsewhere (Arditi et al. 2024 do so).
        where: see `Where`.

    Returns:
        A context manager; when it ends, nothing is left in the model.

    Raises:
        EPError: a region that does not exist or has no direction, or another model.
    """
    q_rd = orthonormal(_directions(dictionary, region, where))
    return _act(model, dictionary, edits.off(q_rd, _point(dictionary, around)), where)


def project(
    model: Any, dictionary: StoredDictionary, region: Regions, *, around: Around = "centre", **where: Unpack[Where]
) -> Acting:
    """Keep nothing but the span of the regions' directions.

    Args:
        model: see `steer`.
        dictionary: whose regions they are.
        region: one, or several, whose span is kept.
        around: the point from which the part outside the span is removed, "centre" or "origin": see `ablate`.
        where: see `Where`.

    Returns:
        A context manager; when it ends, nothing is left in the model.

    Raises:
        EPError: see `ablate`.
    """
    q_rd = orthonormal(_directions(dictionary, region, where))
    return _act(model, dictionary, edits.onto(q_rd, _point(dictionary, around)), where)


def swap(model: Any, dictionary: StoredDictionary, region: Regions, towards: Regions, **where: Unpack[Where]) -> Acting:
    """Off the span of some regions, towards the mean of others within that span.

    Args:
        model: see `steer`.
        dictionary: whose regions they are.
        region: one, or several, whose span is exchanged.
        towards: one, or several; the target is the mean of their directions at the typical distance from the centre.
        where: see `Where`.

    Returns:
        A context manager; when it ends, nothing is left in the model.

    Raises:
        EPError: see `ablate`.
    """
    q_rd, towards_rd = (_directions(dictionary, regions, where) for regions in (region, towards))
    target_d = dictionary.center + dictionary.typical_radius * towards_rd.mean(dim=0)
    return _act(model, dictionary, edits.swap(orthonormal(q_rd), target_d), where)


def clamp(model: Any, dictionary: StoredDictionary, region: int, value: float, **where: Unpack[Where]) -> Acting:
    """Set the component along a region's direction to a value.

    Args:
        model: see `steer`.
        dictionary: whose regions they are.
        region: along whose direction.
        value: of the component, counted from the centre, in units of `dictionary.typical_norm`.
        where: see `Where`.

    Returns:
        A context manager; when it ends, nothing is left in the model.

    Raises:
        EPError: a value that is not finite; and see `ablate`.
    """
    if not math.isfinite(value):
        raise EPError(f"value is {value}; expected a finite number of typical residual norms")
    v_d = _directions(dictionary, region, where)[0]
    edit = edits.clamp(v_d / v_d.norm(), dictionary.center, value * dictionary.typical_norm)
    return _act(model, dictionary, edit, where)


def _directions(dictionary: StoredDictionary, region: Regions, where: Where) -> Float[Tensor, "r d"]:
    return directions_of(dictionary, region, where.get("basis", "exemplar"))


def direction_of(dictionary: StoredDictionary, region: Regions, basis: Direction = "exemplar") -> Float[Tensor, " d"]:
    """Unit direction of the sum of the regions' directions; EPError where they cancel, or there are none."""
    total_d = directions_of(dictionary, region, basis).sum(dim=0)
    if not bool(total_d.norm() > 0):
        raise EPError("the direction to steer along is zero: the regions' directions cancel, or have no members")
    return total_d / total_d.norm()


def directions_of(dictionary: StoredDictionary, region: Regions, basis: Direction) -> Float[Tensor, "r d"]:
    """The directions that regions stand for, or the one that was given; EPError where there is none."""
    if isinstance(basis, Tensor):
        if basis.shape != (dictionary.d_model,) or not bool(torch.isfinite(basis).all()):
            raise EPError(f"a direction must be finite, of shape [{dictionary.d_model}]; got {list(basis.shape)}")
        return basis.float()[None]
    check_choice("basis", basis, (*get_args(Basis), "a direction [d_model]"))
    regions = [region] if isinstance(region, int) else list(region)
    if not regions:
        raise EPError("no region was named; give one or several")
    for index in regions:
        dictionary.check_region(index)
    if basis == "exemplar":
        return dictionary.exemplars[regions]
    means = torch.from_numpy(dictionary.annotation.mean_directions[regions])
    if empty := [index for index, mean in zip(regions, means, strict=True) if not bool(mean.any())]:
        raise EPError(f"region {empty[0]} has no members, so no mean direction; use basis='exemplar'")
    return means


def _point(dictionary: StoredDictionary, around: Around) -> Float[Tensor, " d"]:
    check_choice("around", around, get_args(Around))
    return dictionary.center if around == "centre" else torch.zeros_like(dictionary.center)


def _act(model: Any, dictionary: StoredDictionary, edit: Edit, where: Where) -> AbstractContextManager[None]:
    if unknown := set(where) - set(Where.__annotations__):
        raise TypeError(f"there is no parameter {', '.join(sorted(unknown))}; see ep.steer and act.steer.Where")
    check_model_of(model, dictionary, where.get("any_model", False))
    gate = where.get("gate")
    edit = _of_width(dictionary, edits.gated(gate, edit) if gate else edit)
    outer = model.model if isinstance(model, LoadedModel) else model  # a bridge itself, whose `generate` is watched
    sites = where.get("sites") or dictionary.config.site.name
    bos = None if where.get("any_model") else dictionary.config.text.begins_with  # another's ids mean other tokens
    return applied(outer, edit, sites, tokens=where.get("tokens", "all"), bos=bos)


def _of_width(dictionary: StoredDictionary, edit: Edit) -> Edit:
    """An edit that says so where activations are of another width than the dictionary's, as at another site."""

    def checked(x_nd: Tensor) -> Tensor:
        if x_nd.shape[1] != dictionary.d_model:
            raise EPError(
                f"activations there are {x_nd.shape[1]} wide, the dictionary's ({dictionary.config.site.name}) "
                f"{dictionary.d_model}; act at its own site, or at others as wide"
            )
        return edit(x_nd)

    return checked


def check_model_of(model: Any, dictionary: StoredDictionary, any_model: bool) -> Any:
    """The model object itself; EPError for another width and, unless any will do, for any other model."""
    module = model.model if isinstance(model, LoadedModel) else transformers_model(model)
    record, width = dictionary.config.model, Architecture.of(module).d_model
    if dictionary.config.site.width is None and width != dictionary.d_model:
        raise EPError(f"the model's d_model is {width}, the dictionary's ({record.id}) is {dictionary.d_model}")
    if any_model:
        return module
    if isinstance(model, LoadedModel):
        model.require_head("be steered")
    identity = current_identity(module)  # as it is now, however it was loaded
    same_software = dictionary.config.versions.get("transformers") == versions()["transformers"]
    for what, mine, theirs in (
        ("weights", identity.weights, record.weights or record.fingerprint),
        ("configuration, buffers or adapters", identity.fingerprint, record.fingerprint if same_software else None),
    ):
        if theirs is not None and mine != theirs and (record.weights or what == "weights"):
            raise EPError(
                f"the model's {what} ({mine[:12]}) are not those of {record.id} that the dictionary was built from "
                f"({theirs[:12]}); to act on another model or dtype all the same, say any_model=True"
            )
    return module
