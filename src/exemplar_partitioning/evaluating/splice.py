"""A model whose activations at a site are replaced by rebuilt ones: how much worse it predicts.

Shapes: s text tokens of a window, d = d_model, v vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from ..models.capture import undisturbed
from ..models.hooks import at
from ..models.loaded import LoadedModel
from .held_out import Passage


class Spliced:
    """Predictions for one window, clean and with other activations in place of those of its text tokens.

    BOS and other special tokens keep theirs. Counted is each prediction of a text token by a text token.
    """

    def __init__(self, loaded: LoadedModel, site: str, passage: Passage):
        self.loaded, self.site, self.passage = loaded, site, passage
        text = passage.text_s.numpy()
        self.by_p = torch.from_numpy(text[:-1][np.diff(text) == 1])
        ids = torch.from_numpy(passage.window.ids.astype(np.int64))
        self.ids_s, self.target_p = ids, ids[self.by_p + 1]
        self.clean_pv = self._log_probabilities(None)

    def ce(self, log_pv: Float[Tensor, "p v"] | None = None) -> float:
        """Cross-entropy summed over the counted predictions, nats; of the clean ones by default."""
        log_pv = self.clean_pv if log_pv is None else log_pv
        return -float(log_pv.gather(1, self.target_p[:, None]).double().sum())

    def with_rows(self, x_sd: Float32[Tensor, "s d"]) -> tuple[float, float]:
        """Sums of cross-entropy, and of KL from the clean predictions to those with rows in place, nats."""
        log_pv = self._log_probabilities(x_sd)
        kl_p: Float64[Tensor, " p"] = (self.clean_pv.exp() * (self.clean_pv - log_pv)).sum(dim=1).double()
        return self.ce(log_pv), float(kl_p.sum())

    @torch.inference_mode()
    def _log_probabilities(self, x_sd: Tensor | None) -> Float32[Tensor, "p v"]:
        def put(x_bsd: Tensor) -> Tensor | None:
            if x_sd is None:
                return None
            changed = x_bsd.clone()
            changed[0, self.passage.text_s] = x_sd.to(changed)
            return changed

        model = self.loaded.model
        with undisturbed(model), at(model, self.site, put):
            logits_sv = model(self.ids_s[None].to(model.device), use_cache=False).logits[0]
        return logits_sv[self.by_p].float().log_softmax(dim=1).cpu()
