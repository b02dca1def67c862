"""Which regions, at which tokens, a model's next token hangs on.

At a site every activation is written as regions with weights plus an error, `x = c + sum_j w_j e_j + error`, which
changes nothing: what is not explained stays in as the error. By how much a logit difference m would fall without one
region at one token is then predicted to first order, `w_j (dm/dx . e_j)`, and measured by taking it away.

Shapes: s tokens of a prompt, k regions of a token, d = d_model, b changed prompts, n nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from ..core.choices import STEPS, Basis, Method
from ..core.decomposition import Decomposition
from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..folder.model import check_model
from ..models.capture import input_device
from ..models.generate import encode
from ..models.hooks import at
from ..models.identity import special_token_ids
from ..models.loaded import LoadedModel
from ..text.tokens import token_texts
from ..text.windows import special_mask

_BATCH_TOKENS = 2048  # of changed prompts in one forward pass


class PromptAtSite:
    """A prompt inside a model up to a site: its activations, and what the model makes of others in their place.

    Args:
        loaded: the model.
        site: where.
        ids: the prompt's tokens.
        target: two tokens that may come next, whose logits are compared; by default the two most likely.

    Raises:
        EPError: the prompt is longer than the model's context.
    """

    def __init__(self, loaded: LoadedModel, site: str, ids: Sequence[int], target: tuple[int, int] | None = None):
        limit = loaded.architecture.max_length
        if limit is not None and len(ids) > limit:
            raise EPError(f"the prompt has {len(ids):,} tokens, the model's context {limit:,}; shorten it")
        self.loaded, self.site, self.ids = loaded, site, list(ids)
        self.text_s: Bool[Tensor, " s"] = ~torch.from_numpy(
            special_mask(np.asarray(self.ids), special_token_ids(loaded.tokenizer))
        )
        """Which tokens are text, not special; the others' activations stay as they are."""
        with torch.enable_grad():
            kept: list[Tensor] = []

            def keep(x_bsd: Tensor) -> Tensor:
                kept.append(x_bsd.detach().float().requires_grad_())
                return kept[0].to(x_bsd.dtype)

            logits_v = self._logits(keep, 1)[0]
            self.target = target if target is not None else tuple(logits_v.topk(2).indices.tolist())
            difference = logits_v[self.target[0]] - logits_v[self.target[1]]
            (gradient_bsd,) = torch.autograd.grad(difference, kept)
        self.x_sd: Float32[Tensor, "s d"] = kept[0].detach()[0].cpu()
        self.gradient_sd: Float32[Tensor, "s d"] = gradient_bsd[0].cpu()
        """Of the logit difference, with respect to the activations."""
        self.logits_v = logits_v.detach().cpu()
        self.difference = float(difference.detach())
        """Logit of the first target less that of the second."""

    @torch.no_grad()
    def differences(self, x_bsd: Float32[Tensor, "b s d"]) -> Float32[Tensor, " b"]:
        """The logit difference with other activations in place of those of the text."""
        logits_bv = self.logits(x_bsd)
        return logits_bv[:, self.target[0]] - logits_bv[:, self.target[1]]

    @torch.no_grad()
    def logits(self, x_bsd: Float32[Tensor, "b s d"]) -> Float32[Tensor, "b v"]:
        """Logits of the next token with other activations in place of those of the text."""

        def put(part_bsd: Tensor) -> Tensor:
            def change(hidden_bsd: Tensor) -> Tensor:
                changed_bsd = hidden_bsd.clone()
                changed_bsd[:, self.text_s] = part_bsd[:, self.text_s].to(hidden_bsd)
                return changed_bsd

            return self._logits(change, len(part_bsd)).cpu()

        return torch.cat([put(part) for part in x_bsd.split(max(1, _BATCH_TOKENS // len(self.ids)))])

    def _logits(self, change: Any, copies: int) -> Float32[Tensor, "b v"]:
        model = self.loaded.model
        ids_bs = torch.tensor([self.ids] * copies, device=input_device(model))
        with at(model, self.site, change):
            return model(input_ids=ids_bs, use_cache=False).logits[:, -1].float()


@dataclass(frozen=True)
class Nodes:
    """What a prompt's activations are the sum of, besides the centre: each a vector at one token.

    token_n: whose.  of_n: which region, coordinate or the like; -1 for the error of a token.
    vectors_nd: what it adds; of regions and errors in float64, so that they add up to the activation to its last bit.
    effect_n: by how much the logit difference should fall without it, to first order.
    """

    token_n: Int64[Tensor, " n"]
    of_n: Int64[Tensor, " n"]
    vectors_nd: Float[Tensor, "n d"]
    effect_n: Float32[Tensor, " n"]

    @classmethod
    def of(
        cls,
        prompt: PromptAtSite,
        token_n: Int64[Tensor, " n"],
        of_n: Int64[Tensor, " n"],
        vectors_nd: Float[Tensor, "n d"],
    ) -> Nodes:
        """Nodes with their predicted effects."""
        return cls(token_n, of_n, vectors_nd, (prompt.gradient_sd[token_n] * vectors_nd).sum(dim=1).float())

    def without(self, prompt: PromptAtSite, n: Int64[Tensor, " m"]) -> Float32[Tensor, " m"]:
        """By how much the logit difference falls without each of some nodes."""
        x_bsd = prompt.x_sd.repeat(len(n), 1, 1)
        x_bsd[torch.arange(len(n)), self.token_n[n]] -= self.vectors_nd[n]
        return prompt.difference - prompt.differences(x_bsd)


def nodes_of_regions(prompt: PromptAtSite, codes: Decomposition) -> Nodes:
    """Every region of every text token, and after them the errors."""
    text = prompt.text_s.nonzero()[:, 0]
    row_n, place_n = (codes.regions >= 0).nonzero(as_tuple=True)
    of_n = codes.regions[row_n, place_n]
    vectors_nd = codes.weights[row_n, place_n, None].double() * codes.directions[of_n].double()
    sum_sd = codes.center.double().repeat(len(text), 1).index_add_(0, row_n, vectors_nd)
    error_sd = prompt.x_sd[text].double() - sum_sd
    return Nodes.of(
        prompt,
        torch.cat([text[row_n], text]),
        torch.cat([of_n, torch.full_like(text, -1)]),
        torch.cat([vectors_nd, error_sd]),
    )


@dataclass(frozen=True)
class Effect:
    """One region at one token.

    Attributes:
        token: which token of the prompt, from 0.
        region: of which region.
        weight: its share of the activation, in the activation's units.
        predicted: by how much the logit difference would fall without it, to first order: weight x gradient.
        measured: by how much it does.
    """

    token: int
    region: int
    weight: float
    predicted: float
    measured: float


@dataclass(frozen=True)
class Attribution:
    """What the next token of a prompt hangs on.

    Attributes:
        tokens: pieces of the prompt as the model saw it.
        target: the two tokens that are compared.
        difference: logit of the first less that of the second.
        effects: regions at tokens, those with the largest predicted effect, of either sign, first.
        regions: predicted effects summed over all regions.
        errors: the same of what these leave of the text's activations.
        by_token: predicted effects of all regions of each token.
        splice: largest change of a logit when codes and errors take the place of the activations.
    """

    tokens: list[str]
    target: tuple[str, str]
    difference: float
    effects: list[Effect]
    regions: float
    errors: float
    by_token: list[float]
    splice: float


def attribute(
    loaded: LoadedModel,
    dictionary: StoredDictionary,
    prompt: str,
    target: Sequence[str] | None = None,
    *,
    k: int = STEPS,
    basis: Basis = "exemplar",
    method: Method = "omp",
    top: int = 20,
    chat: bool = False,
) -> Attribution:
    """Attribute a logit difference of the next token to regions at tokens.

    Args:
        loaded: the model that the dictionary was built from.
        dictionary: the dictionary.
        prompt: what the model reads.
        target: two tokens that may come next, such as `(" is", " are")`; by default the two most likely ones.
        k: regions of a token at most; these and basis and method as `Dictionary.decompose` takes them.
        basis: directions of exemplars, or of mean members.
        method: of pursuit.
        top: how many effects to give, each measured in a forward pass.
        chat: put the prompt into the model's chat template as a user's message.

    Returns:
        Effects, and what they add up to.

    Raises:
        EPError: another model, an empty or too long prompt, a target that is not two different tokens, or a k, basis
            or method that `decompose` refuses.
    """
    dictionary.check_pursuit(k, basis=basis, method=method)
    check_model(dictionary, loaded)
    ids = encode(loaded, prompt, chat)
    at_site = PromptAtSite(loaded, dictionary.config.site.name, ids, _target(loaded, target))
    if not bool(at_site.text_s.any()):
        raise EPError(f"the prompt has no tokens to attribute to: {prompt[:40]!r}; give some words")
    codes = dictionary.decompose(at_site.x_sd[at_site.text_s], k, basis=basis, method=method)
    nodes = nodes_of_regions(at_site, codes)
    is_region_n = nodes.of_n >= 0
    order_n = torch.where(is_region_n, nodes.effect_n.abs(), -1).argsort(descending=True, stable=True)
    chosen_n = order_n[: min(top, int(is_region_n.sum()))]
    effects = [
        Effect(
            token=int(nodes.token_n[n]),
            region=int(nodes.of_n[n]),
            weight=float(nodes.vectors_nd[n] @ codes.directions[nodes.of_n[n]].double()),
            predicted=float(nodes.effect_n[n]),
            measured=float(measured),
        )
        for n, measured in zip(chosen_n, nodes.without(at_site, chosen_n), strict=True)
    ]
    by_token_s = torch.zeros(len(ids)).index_add_(0, nodes.token_n[is_region_n], nodes.effect_n[is_region_n])
    first, second = token_texts(loaded.tokenizer, np.asarray(at_site.target))
    return Attribution(
        tokens=token_texts(loaded.tokenizer, np.asarray(ids)),
        target=(first, second),
        difference=at_site.difference,
        effects=effects,
        regions=float(nodes.effect_n[is_region_n].sum()),
        errors=float(nodes.effect_n[~is_region_n].sum()),
        by_token=by_token_s.tolist(),
        splice=float((at_site.logits(spliced(at_site, codes, nodes))[0] - at_site.logits_v).abs().max()),
    )


def spliced(prompt: PromptAtSite, codes: Decomposition, nodes: Nodes) -> Float32[Tensor, "1 s d"]:
    """The centre, codes and errors of the text tokens added up anew."""
    x_sd = prompt.x_sd.double()
    x_sd[prompt.text_s] = codes.center.double()
    return x_sd.index_add_(0, nodes.token_n, nodes.vectors_nd).float()[None]


def _target(loaded: LoadedModel, target: Sequence[str] | None) -> tuple[int, int] | None:
    if target is None:
        return None
    ids = []
    for text in [target] if isinstance(target, str) else target:
        token = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(token) != 1:
            raise EPError(
                f"the target {text!r} is {len(token)} tokens to this model; give two that are one token each, most "
                "often a word with the space before it, such as ' is' and ' are'"
            )
        ids += token
    if len(set(ids)) != 2 or len(ids) != 2:
        raise EPError(f"a target is two different tokens, one of which is right; got {target!r}")
    return ids[0], ids[1]
