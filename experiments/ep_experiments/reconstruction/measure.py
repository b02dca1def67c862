"""How well directions or autoencoders rebuild held-out activations, and what the model makes of the rebuilt ones.

Shapes: n activations, k steps, m directions, d = d_model, w documents, b windows, s positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding_bag, normalize

from exemplar_partitioning.core.atoms import Atoms, Rule
from exemplar_partitioning.core.pursuit import pursue
from exemplar_partitioning.models.hooks import at

_WINDOWS, _LOGITS = 32, 2**27  # run at once, at most


@dataclass(frozen=True, eq=False)
class Text:
    """Held-out windows padded to one length, and the activations of their text tokens, window by window.

    document_n: the document of each activation, numbered from 0.
    """

    ids_bs: Int64[Tensor, "b s"]
    text_bs: Bool[Tensor, "b s"]
    x_nd: Float32[Tensor, "n d"]
    document_n: Int64[Tensor, " n"]

    @property
    def documents(self) -> int:
        """How many."""
        return int(self.document_n.max()) + 1


class Measure:
    """Sums over documents of squared errors and of cross-entropy, on one text at one site."""

    def __init__(self, model: Any, site: str, text: Text):
        self.model, self.site, self.text = model, site, text
        self.mean_d = text.x_nd.double().mean(dim=0)
        self.total_w = self._by_document(((text.x_nd - self.mean_d) ** 2).sum(dim=1))
        follows_bs = text.text_bs[:, 1:] & text.text_bs[:, :-1]
        self.document_bs = torch.zeros_like(text.ids_bs)
        self.document_bs[text.text_bs] = text.document_n
        self.follows_bs = follows_bs
        self.count_w = torch.zeros(text.documents, dtype=torch.float64, device=text.x_nd.device)
        self.count_w.index_add_(0, self.document_bs[:, 1:][follows_bs], follows_bs[follows_bs].double())

    @cached_property
    def clean_w(self) -> Float64[Tensor, " w"]:
        """Cross-entropy of the model as it is."""
        return self.ce(None)

    @cached_property
    def zero_w(self) -> Float64[Tensor, " w"]:
        """With zeros in place of the activations."""
        return self.ce(torch.zeros_like(self.text.x_nd))

    @cached_property
    def mean_w(self) -> Float64[Tensor, " w"]:
        """With their mean."""
        return self.ce(self.mean_d.float().expand_as(self.text.x_nd))

    def _by_document(self, value_n: Tensor) -> Float64[Tensor, " w"]:
        sum_w = torch.zeros(self.text.documents, dtype=torch.float64, device=value_n.device)
        return sum_w.index_add_(0, self.text.document_n, value_n.double())

    def error(self, x_nd: Float[Tensor, "n d"]) -> Float64[Tensor, " w"]:
        """Squared errors; over total_w they are the FVU."""
        return self._by_document(((self.text.x_nd - x_nd) ** 2).sum(dim=1))

    def relative(self, x_nd: Float[Tensor, "n d"]) -> float:
        """Mean over tokens of the squared error over the square around the mean: long activations do not outweigh."""
        around_n = ((self.text.x_nd - self.mean_d) ** 2).sum(dim=1)
        return float((((self.text.x_nd - x_nd) ** 2).sum(dim=1) / around_n).mean())

    @torch.inference_mode()
    def ce(self, x_nd: Float[Tensor, "n d"] | None) -> Float64[Tensor, " w"]:
        """Cross-entropy with these in place of the activations of text tokens; clean for None. Nats, summed."""
        text, sum_w = self.text, torch.zeros_like(self.count_w)
        counts = text.text_bs.sum(dim=1).tolist()
        starts = [0]
        for count in counts:
            starts.append(starts[-1] + count)
        at_once = max(1, min(_WINDOWS, _LOGITS // (text.ids_bs.shape[1] * self.model.config.vocab_size)))
        for first in range(0, len(counts), at_once):
            part = slice(first, first + at_once)
            rows = slice(starts[first], starts[min(first + at_once, len(counts))])
            put = None if x_nd is None else x_nd[rows]
            loss_bs = self._losses(text.ids_bs[part], text.text_bs[part], put)
            kept_bs = self.follows_bs[part]
            sum_w.index_add_(0, self.document_bs[part][:, 1:][kept_bs], loss_bs[kept_bs].double())
        return sum_w

    def _losses(self, ids_bs: Tensor, text_bs: Tensor, x_nd: Tensor | None) -> Float32[Tensor, "b s-1"]:
        def put(hidden_bsd: Tensor) -> Tensor | None:
            if x_nd is None:
                return None
            hidden_bsd = hidden_bsd.clone()
            hidden_bsd[text_bs] = x_nd.to(hidden_bsd)
            return hidden_bsd

        with at(self.model, self.site, put):
            logits_bsv = self.model(ids_bs, use_cache=False).logits[:, :-1]  # padding is to the right: causal
        target_bs = ids_bs[:, 1:]
        return cross_entropy(logits_bsv.flatten(0, 1).float(), target_bs.flatten(), reduction="none").view_as(target_bs)


def rebuilt_at(
    directions_md: Float[Tensor, "m d"], center_d: Tensor, x_nd: Float[Tensor, "n d"], ks: Sequence[int]
) -> dict[int, Float32[Tensor, "n d"]]:
    """Activations rebuilt by non-negative orthogonal pursuit in k steps, as `Dictionary.decompose` does it."""
    atoms = Atoms(normalize(directions_md.float(), dim=1))
    length_n = (x_nd - center_d).norm(dim=1)
    u_nd = normalize(x_nd - center_d, dim=1)
    rebuilt = {}
    for k in [k for k in ks if k <= min(directions_md.shape)]:
        codes = pursue(atoms, u_nd, Rule(k))
        weights_nk = codes.weights_nk.float() * length_n[:, None]
        rebuilt[k] = embedding_bag(
            codes.picks_nk.clamp(min=0), atoms.atoms_md, per_sample_weights=weights_nk, mode="sum"
        )
        rebuilt[k] += center_d
    return rebuilt
