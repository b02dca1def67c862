"""Sparse autoencoders trained side by side, step by step as SAELens 6.54 trains each of them alone.

Several runs of one kind (other learning rates, seeds, penalties) are stacked in one more axis, so that a GPU has
enough to do; nothing passes between them. `tests/peers/sae_lens/test_side_by_side.py` holds the losses of both
against each other. The factor that activations are scaled by and the first decoder bias are those of
`experiments/studies/train_saes.py`.

Shapes: s runs, b rows of a batch, f features, d = d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from exemplar_partitioning.exchange.from_sae import SparseAutoencoder

Kind = Literal["topk", "batchtopk", "jumprelu", "frozen"]
"""frozen: topk whose decoder stays the random directions it began with, as in Sanity Checks for SAEs (2602.14111)."""

_BANDWIDTH, _TANH, _INIT_THRESHOLD, _PRE_ACT = 2.0, 4.0, 0.1, 3e-6
_BETA1, _BETA2, _EPS, _CLIP = 0.9, 0.999, 1e-8, 1.0
_SAMPLE = 20_480  # rows whose mean and lengths are looked at before training


@dataclass(frozen=True)
class Recipe:
    """One run. l0_coefficient: of a JumpReLU's sparsity loss."""

    kind: Kind
    lr: float = 1e-3
    k: int = 32
    l0_coefficient: float = 1.0
    seed: int = 0


def _topk(pre: Tensor, k: int) -> Tensor:
    values, at = pre.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(pre).scatter_(-1, at, values.relu())


class Training:
    """Runs of one kind, parameters stacked: w_enc [s, d, f], b_enc [s, 1, f], w_dec [s, f, d], b_dec [s, 1, d]."""

    def __init__(self, recipes: Sequence[Recipe], x_nd: Tensor, features: int, steps: int):
        (self.kind,) = {recipe.kind for recipe in recipes}
        (self.k,) = {recipe.k for recipe in recipes}
        self.steps, device = steps, x_nd.device
        d = x_nd.shape[1]
        sample_nd = x_nd[torch.randperm(len(x_nd), device=device)[:_SAMPLE]]
        mean_d = sample_nd.mean(dim=0)
        self.scale = float(d**0.5 / (sample_nd - mean_d).norm(dim=1).mean())
        self.w_dec = torch.stack([_initial(recipe.seed, features, d) for recipe in recipes]).to(device)
        self.w_enc = self.w_dec.transpose(1, 2).clone()
        self.b_enc = torch.zeros(len(recipes), 1, features, device=device)
        self.b_dec = (mean_d * self.scale).expand(len(recipes), 1, d).clone()
        self.threshold = torch.full((len(recipes), 1, features), _INIT_THRESHOLD, device=device)
        self.lr_s = torch.tensor([recipe.lr for recipe in recipes], device=device)
        self.l0_s = torch.tensor([recipe.l0_coefficient for recipe in recipes], device=device)
        names = ["w_enc", "b_enc", "b_dec"]
        names += ["w_dec"] if self.kind != "frozen" else []
        names += ["threshold"] if self.kind == "jumprelu" else []
        self.trained = [getattr(self, name).requires_grad_() for name in names]
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.trained]
        self.silent_sf = torch.zeros(len(recipes), features, device=device)
        self.done = 0

    def step(self, batch_sbd: Float[Tensor, "s b d"]) -> Float[Tensor, " s"]:
        """One step of every run; its losses before it."""
        x_sbd = batch_sbd * self.scale
        dead_sf = self.silent_sf > self.steps // 10
        if self.kind == "jumprelu":
            self.threshold.data.clamp_(min=0)
        code_sbf, loss_s = self._loss(x_sbd, dead_sf)
        loss_s.sum().backward()
        fired_sf = (code_sbf.detach() != 0).any(dim=1)
        self.silent_sf = torch.where(fired_sf, 0, self.silent_sf + 1)
        self._descend()
        return loss_s.detach()

    def _loss(self, x_sbd: Tensor, dead_sf: Tensor) -> tuple[Tensor, Tensor]:
        norm_s1f = self.w_dec.norm(dim=-1)[:, None]
        pre_sbf = torch.baddbmm(self.b_enc, x_sbd - self.b_dec, self.w_enc)
        if self.kind == "jumprelu":
            code_sbf = _jumprelu(pre_sbf, self.threshold)
            out_sbd = torch.baddbmm(self.b_dec, code_sbf, self.w_dec)
            penalty_s = torch.tanh(_TANH * code_sbf * norm_s1f).sum(dim=-1).mean(dim=-1) * self.l0_s
            below_sbf = (self.threshold - pre_sbf).relu() * dead_sf[:, None] * norm_s1f
            other_s = penalty_s * min(self.done / max(self.steps // 2, 1), 1)
            other_s = other_s + _PRE_ACT * below_sbf.sum(dim=-1).mean(dim=-1)
        else:
            pre_sbf = pre_sbf * norm_s1f
            code_sbf = self._largest(pre_sbf)
            out_sbd = torch.baddbmm(self.b_dec, code_sbf / norm_s1f, self.w_dec)
            other_s = self._auxiliary(pre_sbf, (x_sbd - out_sbd).detach(), norm_s1f, dead_sf)
        return code_sbf, ((out_sbd - x_sbd) ** 2).sum(dim=-1).mean(dim=-1) + other_s

    def _largest(self, pre_sbf: Tensor) -> Tensor:
        if self.kind != "batchtopk":
            return _topk(pre_sbf, self.k)
        flat = pre_sbf.flatten(1)
        return _topk(flat, self.k * pre_sbf.shape[1]).view_as(pre_sbf)

    def _auxiliary(self, pre_sbf: Tensor, left_sbd: Tensor, norm_s1f: Tensor, dead_sf: Tensor) -> Tensor | float:
        """Features that have been silent for a tenth of the steps rebuild what the others left."""
        if not bool(dead_sf.any()):
            return 0.0
        most = left_sbd.shape[-1] // 2
        scale_s = (dead_sf.sum(dim=1) / most).clamp(max=1)
        values, at = torch.where(dead_sf[:, None], pre_sbf, -torch.inf).topk(min(most, pre_sbf.shape[-1]), dim=-1)
        values = torch.where(values.isinf(), 0.0, values)
        code_sbf = torch.zeros_like(pre_sbf).scatter(-1, at, values)
        error_sbd = torch.bmm(code_sbf / norm_s1f, self.w_dec) - left_sbd
        return scale_s * (error_sbd**2).sum(dim=-1).mean(dim=-1)

    @torch.no_grad()
    def _descend(self) -> None:
        """Adam, after the gradient of each run was cut to length 1; warm-up for a twentieth, decay for a fifth."""
        gradients = [p.grad for p in self.trained]
        length_s = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        cut_s11 = (_CLIP / (length_s + 1e-6)).clamp(max=1)[:, None, None]
        self.done += 1
        rate_s11 = (self.lr_s * self._share(self.done - 1))[:, None, None]
        for p, g, (first, second) in zip(self.trained, gradients, self.moments, strict=True):
            g.mul_(cut_s11)
            first.lerp_(g, 1 - _BETA1)
            second.mul_(_BETA2).addcmul_(g, g, value=1 - _BETA2)
            size = (second / (1 - _BETA2**self.done)).sqrt_().add_(_EPS)
            p.sub_(rate_s11 / (1 - _BETA1**self.done) * first / size)
            p.grad = None

    def _share(self, step: int) -> float:
        """Of the learning rate: linear from 1/w over w steps, constant, linear to 0 over the last fifth."""
        warm, decay = max(self.steps // 20, 1), self.steps // 5
        if step < warm:
            return 1 / warm + (1 - 1 / warm) * min(step / max(warm - 1, 1), 1)
        return min(1.0, (self.steps - step) / max(decay, 1))

    def finished(self, run: int, x_nd: Float[Tensor, "n d"]) -> SparseAutoencoder:
        """A run's autoencoder for activations as they come, decoder norms and the scale folded in.

        x_nd: of training; batchtopk takes from them the threshold at which k features are active on average.
        """
        norm_f = self.w_dec[run].detach().norm(dim=-1).clamp(min=1e-12)
        rescaled = self.kind != "jumprelu"
        threshold = None if rescaled else self.threshold[run, 0].detach() / self.scale * norm_f
        sae = SparseAutoencoder(
            W_enc=self.w_enc[run].detach() * norm_f,
            b_enc=self.b_enc[run, 0].detach() * norm_f / self.scale,
            W_dec=self.w_dec[run].detach() / norm_f[:, None],
            b_dec=self.b_dec[run, 0].detach() / self.scale,
            kind="jumprelu" if self.kind == "jumprelu" else "relu" if self.kind == "batchtopk" else "topk",
            threshold=threshold,
            k=self.k if self.kind in ("topk", "frozen") else None,
        )
        if self.kind != "batchtopk":
            return sae
        least = sae.encode(x_nd).flatten().topk(self.k * len(x_nd), sorted=False).values.min()
        return replace(sae, kind="jumprelu", threshold=least.expand_as(sae.b_enc))


def _initial(seed: int, features: int, d: int) -> Tensor:
    torch.manual_seed(seed)
    w_fd = nn.init.kaiming_uniform_(torch.empty(features, d))
    return w_fd / w_fd.norm(dim=-1, keepdim=True) * 0.1


def _jumprelu(pre: Tensor, threshold: Tensor) -> Tensor:
    """Straight-through: near the threshold the step lets gradient through to both sides of it."""
    near = ((pre - threshold).abs() < _BANDWIDTH / 2).to(pre) * (threshold / _BANDWIDTH)
    across = pre - threshold
    return pre * (pre > threshold) + near.detach() * (across - across.detach())


def train(
    recipes: Sequence[Recipe],
    x_nd: Float[Tensor, "n d"],
    rows: Sequence[Int64[Tensor, " m"]],
    features: int,
    batch: int,
) -> list[SparseAutoencoder]:
    """Train on the rows of each run, in the order given, whole batches only.

    Args:
        recipes: of one kind and k.
        x_nd: activations, of any floating type, where the work is to be done.
        rows: for each run, what it sees and in which order; equally many.
        features: of each autoencoder.
        batch: rows of a step.
    """
    steps = len(rows[0]) // batch
    training = Training(recipes, x_nd[rows[0][:_SAMPLE]].float(), features, steps)
    for at_sb in _batches(rows, batch, steps):
        training.step(x_nd[at_sb].float())
    return [training.finished(run, x_nd[chosen[:4096]].float()) for run, chosen in enumerate(rows)]


def _batches(rows: Sequence[Tensor], batch: int, steps: int) -> Iterator[Tensor]:
    for step in range(steps):
        yield torch.stack([order[step * batch : (step + 1) * batch] for order in rows])
