"""Exemplar Partitioning as a model of AxBench: for each concept the region that tells it apart best.

To go into `axbench/models`, with `ep_dictionary.safetensors` beside it. A concept's score for a token is the cosine
between its activation and the region's exemplar, around the centre; steering adds the exemplar.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pyvene import IntervenableConfig, IntervenableModel  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file
from torch import Tensor

from ..utils.model_utils import gather_residual_activations  # pyright: ignore[reportMissingImports]
from .interventions import AdditionIntervention  # pyright: ignore[reportMissingImports]
from .model import Model  # pyright: ignore[reportMissingImports]


class Cosines(torch.nn.Module):
    """Activations [..., d] to cosines [..., r] with some exemplars."""

    center: Tensor
    exemplars: Tensor

    def __init__(self, center: Tensor, exemplars: Tensor):
        super().__init__()
        self.register_buffer("center", center)  # [d]
        self.register_buffer("exemplars", exemplars)  # [r, d]

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x.float() - self.center, dim=-1) @ self.exemplars.T


def auroc(positive_nk: Tensor, negative_mk: Tensor) -> Tensor:
    """Area under the ROC curve of each column [k]: how often a positive row exceeds a negative one."""
    area_k = torch.zeros(positive_nk.shape[1], device=positive_nk.device)
    for row_k in positive_nk:
        area_k += (row_k > negative_mk).float().mean(dim=0) + (row_k == negative_mk).float().mean(dim=0) / 2
    return area_k / len(positive_nk)


class ExemplarPartition(Model):
    """Trained on a concept, it keeps one region; `regions` has that of every concept so far."""

    def __str__(self) -> str:
        return "ExemplarPartition"

    def make_model(self, **kwargs: Any) -> None:
        tensors = load_file(Path(__file__).with_name("ep_dictionary.safetensors"))
        self.regions: list[int] = kwargs.get("regions", [])
        chosen = tensors["exemplars"][self.regions] if self.regions else tensors["exemplars"]
        if kwargs.get("mode") != "steering":
            self.ax = Cosines(tensors["center"], chosen).to(self.device)
            return
        self.ax = AdditionIntervention(embed_dim=self.model.config.hidden_size, low_rank_dimension=len(chosen)).to(
            self.device
        )
        # A factor of 1 adds one typical residual norm at full cosine.
        self.ax.proj.weight.data = (tensors["typical_norm"] * chosen).to(self.device)
        component = {
            "layer": self.layer,
            "component": f"model.layers[{self.layer}].output",
            "low_rank_dimension": len(chosen),
            "intervention": self.ax,
        }
        self.ax_model = IntervenableModel(IntervenableConfig(representations=[component]), self.model)
        self.ax_model.set_device(self.device)

    @torch.no_grad()
    def train(self, examples: Any, **kwargs: Any) -> None:
        self.make_model(**{**kwargs, "regions": [], "mode": "latent"})
        prefix = kwargs.get("prefix_length", 1)
        highest, labels = [], []
        for batch in self.make_dataloader(examples):
            inputs = {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask")}
            hidden_bsd = gather_residual_activations(self.model, self.layer, inputs)
            cosine_bsk = self.ax(hidden_bsd[:, prefix:])
            cosine_bsk[inputs["attention_mask"][:, prefix:] == 0] = -1
            highest.append(cosine_bsk.amax(dim=1))
            labels.append(batch["labels"].reshape(-1))
        highest_nk, positive_n = torch.cat(highest), torch.cat(labels) == 1
        with_nk, without_nk = highest_nk[positive_n], highest_nk[~positive_n]
        # Several may tell the texts apart without fault: then the one that does so by the widest margin.
        score_k = auroc(with_nk, without_nk) + 1e-4 * (with_nk.mean(dim=0) - without_nk.mean(dim=0))
        self.regions = [int(score_k.argmax())]

    def save(self, dump_dir: Path, **kwargs: Any) -> None:
        path = Path(dump_dir) / f"{self}_regions.json"
        known = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps(known + self.regions))

    def load(self, dump_dir: Any = None, **kwargs: Any) -> None:
        regions = json.loads((Path(dump_dir) / f"{self}_regions.json").read_text())
        self.make_model(**{**kwargs, "regions": regions})
