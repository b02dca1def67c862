"""Do regions and an autoencoder's features stand for the same inputs?

An input is a token of text. Two ways to say which inputs a unit (a region or a feature) stands for:

- top inputs: the 100 that it is largest on, by cosine for a region, by activation for a feature;
- members: for a region all that are nearest to its exemplar, for a feature all that it is active on.

Two units agree by F1 = 2 |A and B| / (|A| + |B|). What agreement there is by chance is measured with one side's inputs
permuted: all of them, or each among those with the same token, which leaves what follows from the token alone.

All denominators count units that share nothing with any other, and units with hardly any inputs.

Shapes: n inputs, k regions, f features, u units of either kind, v of the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array, vstack
from torch import Tensor

from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.folder.dictionary import StoredDictionary

from .nulls import permuted
from .streamed import Streamed

TOP = 100
FEW = 20  # a unit with fewer inputs has no list to speak of; it counts all the same
STRONG = (0.3, 0.5, 0.8)
PERMUTATIONS = 20
_ROWS = 2048  # inputs looked at together
_ROW_BITS = 31


class TopInputs:
    """The inputs that each of many units is largest on, over a stream of blocks.

    Inputs count where a unit is above 0. Of equal ones the earliest counts, so that units which see the same
    text again and again list the same inputs.
    """

    def __init__(self, units: int, size: int = TOP) -> None:
        self._key_us = torch.full((units, size), -1, dtype=torch.int64)
        self._rows = 0
        self.active_u = torch.zeros(units, dtype=torch.int64)

    def add(self, score_nu: Float[Tensor, "n u"]) -> None:
        """The next inputs of the stream; NaN is not above 0."""
        active_nu = score_nu > 0
        # Positive floats are in the order of their bits; the row below them decides between equal ones.
        row_n = 2**_ROW_BITS - 1 - torch.arange(self._rows, self._rows + len(score_nu))
        key_nu = (score_nu.float().view(torch.int32).long() << _ROW_BITS) + row_n[:, None]
        key_un = torch.where(active_nu, key_nu, -1).T
        self._key_us = torch.cat([self._key_us, key_un], dim=1).topk(self._key_us.shape[1], dim=1).values
        self.active_u += active_nu.sum(dim=0)
        self._rows += len(score_nu)

    @property
    def inputs(self) -> csr_array:
        """1 where an input is among a unit's, int64 [u, n]."""
        unit_p, at_p = (self._key_us >= 0).nonzero(as_tuple=True)
        row_p = 2**_ROW_BITS - 1 - (self._key_us[unit_p, at_p] & (2**_ROW_BITS - 1))
        ones = np.ones(len(row_p), np.int64)
        return csr_array((ones, (unit_p.numpy(), row_p.numpy())), shape=(len(self._key_us), self._rows))


@dataclass(frozen=True, eq=False)
class Inputs:
    """What units stand for: 0 or 1, int64 [u, n]; enough_u tells units with at least FEW inputs."""

    of: csr_array
    enough_u: np.ndarray


@dataclass(frozen=True, eq=False)
class Sides:
    """Inputs of regions and of features, by both definitions, and the token of each input."""

    top: tuple[Inputs, Inputs]
    members: tuple[Inputs, Inputs]
    token_n: np.ndarray


def inputs_of(dictionary: Dictionary, sae: SparseAutoencoder, blocks: Iterable[tuple[Tensor, np.ndarray]]) -> Sides:
    """Look at activations [n, d] with their tokens, block by block; nothing of size n x k is kept."""
    regions, features = TopInputs(dictionary.k), TopInputs(sae.W_enc.shape[1])
    ids, active, tokens = [], [], []
    for x_nd, token_n in blocks:
        tokens.append(token_n)
        for part in x_nd.split(_ROWS):
            regions.add(dictionary.encode(part, "cosine"))
            features_nf = sae.encode(part)
            features.add(features_nf)
            ids.append(dictionary.assign(part)[0].numpy())
            active.append(csr_array((features_nf > 0).numpy().astype(np.int64)))
    token_n, id_n = np.concatenate(tokens), np.concatenate(ids)
    placed = np.flatnonzero(id_n >= 0)
    ones = np.ones(len(placed), np.int64)
    members_kn = csr_array((ones, (id_n[placed], placed)), shape=(dictionary.k, len(id_n)))
    active_fn = csr_array(vstack(active).T)
    return Sides(
        (_inputs(regions.inputs, regions.active_u.numpy()), _inputs(features.inputs, features.active_u.numpy())),
        (_inputs(members_kn), _inputs(active_fn)),
        token_n,
    )


def _inputs(of: csr_array, count_u: np.ndarray | None = None) -> Inputs:
    count_u = np.asarray(of.sum(axis=1)).ravel() if count_u is None else count_u
    return Inputs(of, count_u >= FEW)


def shared_f1(a_un: csr_array, b_nv: csr_array) -> csr_array:
    """F1 of the inputs of every two units that share any: sparse float64 [u, v]."""
    shared = csr_array(a_un @ b_nv).tocoo()
    size_u, size_v = np.asarray(a_un.sum(axis=1)).ravel(), np.asarray(b_nv.sum(axis=0)).ravel()
    f1 = 2 * shared.data / (size_u[shared.row] + size_v[shared.col])
    return csr_array((f1, (shared.row, shared.col)), shape=shared.shape)


def best(f1_uv: csr_array) -> Float64[np.ndarray, " u"]:
    """The F1 of each row's best partner, 0 where it shares nothing with any."""
    return f1_uv.max(axis=1).toarray().ravel()


def compare(a: Inputs, b: Inputs, token_n: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Agreement both ways, one to one, and by chance, as plain values."""
    b_nv = csr_array(b.of.T)
    f1_uv = shared_f1(a.of, b_nv)
    row, column = linear_sum_assignment(f1_uv.toarray(), maximize=True)
    rng = np.random.default_rng(seed)
    same = np.zeros(len(token_n), np.int64)
    return {
        "regions": _summary(best(f1_uv), a.enough_u),
        "features": _summary(best(csr_array(f1_uv.T)), b.enough_u),
        "one_to_one": _shares(np.asarray(f1_uv[row, column]).ravel()),
        "chance": _chance(a.of, b_nv, [permuted(same, rng) for _ in range(PERMUTATIONS)]),
        "chance_same_token": _chance(a.of, b_nv, [permuted(token_n, rng) for _ in range(PERMUTATIONS)]),
    }


def _chance(a_un: csr_array, b_nv: csr_array, permutations: list[np.ndarray]) -> dict[str, Any]:
    """The same figures with the inputs of regions permuted, means over the permutations."""
    regions, features = [], []
    for permutation in permutations:
        f1_uv = shared_f1(csr_array(a_un[:, permutation]), b_nv)
        regions.append(_shares(best(f1_uv)))
        features.append(_shares(best(csr_array(f1_uv.T))))
    return {
        name: {key: round(float(np.mean([draw[key] for draw in each])), 4) for key in each[0]}
        for name, each in (("regions", regions), ("features", features))
    }


def _summary(f1_u: np.ndarray, enough_u: np.ndarray) -> dict[str, Any]:
    return {
        "units": len(f1_u),
        "with_enough_inputs": int(enough_u.sum()),
        "sharing_nothing": int((f1_u == 0).sum()),
        **_shares(f1_u),
        "of_those_with_enough": _shares(f1_u[enough_u]),
    }


def _shares(f1_u: np.ndarray) -> dict[str, float]:
    """Mean F1, and shares above each of STRONG; zeros count."""
    if not len(f1_u):
        return {"mean_f1": 0.0} | {f"above_{cut}": 0.0 for cut in STRONG}
    return {"mean_f1": round(float(f1_u.mean()), 4)} | {
        f"above_{cut}": round(float((f1_u > cut).mean()), 4) for cut in STRONG
    }


def check_fits(sae: SparseAutoencoder, streamed: Streamed) -> None:
    """Raise EPError unless an autoencoder reads activations like these."""
    width, d = sae.W_enc.shape[0], streamed.x_nd.shape[1]
    if width != d:
        raise EPError(
            f"the autoencoder reads activations of width {width}, those in {streamed.folder} have {d}; "
            "give one that was trained on this model"
        )
    path = streamed.record["module_path"]
    known = {streamed.record["site"], streamed.record["transformer_lens"], path, f"{path}.output"}
    if sae.site is not None and sae.site not in known and not path.endswith(f".{sae.site}"):
        raise EPError(
            f"the autoencoder was trained at {sae.site}, the activations in {streamed.folder} are of "
            f"{streamed.record['site']}; give one of the same site"
        )


def check_same(dictionary: StoredDictionary, streamed: Streamed) -> None:
    """Raise EPError unless a dictionary was built from activations of this model and site, in whatever dtype."""
    config, theirs = dictionary.config, streamed.record
    mine = (config.site.name, config.model.id, config.model.tokenizer_hash)
    if mine != (theirs["site"], theirs["model"]["id"], theirs["model"]["tokenizer_hash"]):
        raise EPError(
            f"{dictionary.path} was built at {config.site.name} of {config.model.id}, the activations in "
            f"{streamed.folder} are of {theirs['site']} of {theirs['model']['id']}; extract them from the "
            "dictionary's model and site"
        )


def describe(sae: SparseAutoencoder, path: Path) -> dict[str, Any]:
    """An autoencoder in a few words."""
    return {"name": path.name, "kind": sae.kind, "features": sae.W_enc.shape[1], "k": sae.k, "site": sae.site}


def run(
    dictionary: StoredDictionary, sae: SparseAutoencoder, streamed: Streamed, *, tokens: int, seed: int = 0
) -> dict[str, Any]:
    """Agreement of a dictionary's regions with an autoencoder's features on the first so many activations.

    Raises EPError if one of them was made for another model or site.
    """
    check_same(dictionary, streamed)
    check_fits(sae, streamed)
    sides = inputs_of(dictionary, sae, streamed.blocks(tokens))
    return {
        "tokens": len(sides.token_n),
        "top": compare(*sides.top, sides.token_n, seed),
        "members": compare(*sides.members, sides.token_n, seed),
    }
