"""What writes activations as codes: a dictionary at several k, an autoencoder as it is, or over its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from ..core.choices import Basis, Method
from ..core.dictionary import Dictionary
from ..exchange.from_sae import SparseAutoencoder


@dataclass(frozen=True)
class Rebuilt:
    """Activations from their codes; how many features each uses; which features are in use at all."""

    x_nd: Float32[Tensor, "n d"]
    l0_n: Int64[Tensor, " n"]
    live_f: Bool[Tensor, " f"]


@dataclass(frozen=True)
class Pursuit:
    """A dictionary's decompositions in k steps."""

    name: str
    dictionary: Dictionary
    k: int
    basis: Basis = "exemplar"
    method: Method = "omp"

    @property
    def features(self) -> int:
        """How many there are to choose from."""
        return self.dictionary.k

    def rebuilt(self, x_nd: Float32[Tensor, "n d"]) -> Rebuilt:
        """Codes of activations, decoded."""
        decomposed = self.dictionary.decompose(x_nd, self.k, basis=self.basis, method=self.method)
        live_f = torch.zeros(self.dictionary.k, dtype=torch.bool)
        live_f[decomposed.regions[decomposed.regions >= 0]] = True
        return Rebuilt(decomposed.reconstruct(), decomposed.l0, live_f)


@dataclass(frozen=True)
class Encoded:
    """An autoencoder's own codes."""

    name: str
    sae: SparseAutoencoder
    k: None = None

    @property
    def features(self) -> int:
        """How many there are to choose from."""
        return self.sae.W_dec.shape[0]

    def rebuilt(self, x_nd: Float32[Tensor, "n d"]) -> Rebuilt:
        """Codes of activations, decoded."""
        features_nf = self.sae.encode(x_nd)
        used_nf = features_nf != 0
        return Rebuilt(self.sae.decode(features_nf), used_nf.sum(dim=1), used_nf.any(dim=0))


Coder = Pursuit | Encoded


def of_dictionary(dictionary: Dictionary, ks: Sequence[int], basis: Basis, method: Method) -> list[Coder]:
    """Decompositions over the exemplars or means, at each k."""
    name = "exemplars" if basis == "exemplar" else "means"
    return [Pursuit(name, dictionary, k, basis, method) for k in ks]


def of_random_activations(
    dictionary: Dictionary, pool_nd: Float32[Tensor, "n d"], ks: Sequence[int], method: Method, seed: int
) -> list[Coder]:
    """The null: as many activations drawn at random, around the same centre, in place of the exemplars."""
    a_nd = pool_nd - dictionary.center
    a_nd = a_nd[a_nd.any(dim=1)]
    chosen = torch.randperm(len(a_nd), generator=torch.Generator().manual_seed(seed))[: dictionary.k]
    atoms_kd = torch.nn.functional.normalize(a_nd[chosen], dim=1)
    null = Dictionary(dictionary.center, atoms_kd, dictionary.threshold)
    return [Pursuit("random activations", null, k, method=method) for k in ks]


def of_sae(sae: SparseAutoencoder, ks: Sequence[int], method: Method) -> list[Coder]:
    """An autoencoder with its own encoder, and with pursuit over its decoder."""
    alive_f = sae.W_dec.norm(dim=1) > 0
    decoder = Dictionary(sae.b_dec, torch.nn.functional.normalize(sae.W_dec[alive_f], dim=1), 1.0)
    most = min(decoder.k, decoder.d_model)
    return [Encoded("SAE", sae), *(Pursuit("SAE decoder", decoder, k, method=method) for k in ks if k <= most)]
