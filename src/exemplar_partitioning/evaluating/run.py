"""`ep.evaluate`: a dictionary measured as sparse autoencoders are, beside its null.

Shapes: n activations, d = d_model, p passages, w documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..core.choices import Basis, Method
from ..errors import EPError
from ..exchange.from_sae import SparseAutoencoder
from ..folder.dictionary import StoredDictionary
from ..folder.model import check_model, model_of
from ..models.loaded import LoadedModel
from ..text.documents import Sources
from .codes import of_dictionary, of_random_activations, of_sae
from .held_out import HeldOut, Report, held_out
from .result import Bootstrap, Evaluation
from .splice import Spliced
from .tally import Predictions, Spread, Tally

KS = (1, 2, 4, 8, 16, 32, 64)
_PASSAGES = 16  # rebuilt at once


def evaluate(
    dictionary: StoredDictionary,
    text: Sources | None = None,
    *,
    model: str | LoadedModel | None = None,
    sae: SparseAutoencoder | None = None,
    ks: Sequence[int] = KS,
    basis: Basis = "exemplar",
    method: Method = "omp",
    max_tokens: int = 8192,
    splice: bool = True,
    field: str = "text",
    seed: int = 0,
    report: Report = lambda what, done, total: None,
) -> Evaluation:
    """Rebuild held-out activations from their codes, and let the model go on from the rebuilt ones.

    Args:
        dictionary: what to evaluate; as many random activations in place of its exemplars stand beside it.
        text: documents it was not built from; None for what the packaged text has after those.
        model: where its model is, if it has moved, or the model itself.
        sae: an autoencoder of the same site: with its own encoder, and with pursuit over its decoder.
        ks: steps of pursuit, at most d_model and the number of regions; of the default, those above are left out.
        basis: directions of exemplars, or of mean members.
        method: of pursuit, see `Dictionary.decompose`.
        max_tokens: text tokens to evaluate on.
        splice: also run the model on rebuilt activations; most of the time goes there.
        field: column or key that holds the text.
        seed: of the null, and of the intervals.
        report: called with what is done, how far, and of how much.

    Returns:
        Error, cross-entropy and their intervals for every k, of the dictionary and of what stands beside it.

    Raises:
        EPError: another model, an autoencoder of another width or site, k out of range, or text shorter than asked.
    """
    if tuple(ks) == KS:
        ks = [k for k in KS if k <= min(dictionary.k, dictionary.d_model)] or KS[:1]
    for k in ks:
        dictionary.check_pursuit(k, basis=basis, method=method)
    usable = sorted(set(ks))
    _check_sae(dictionary, sae)
    loaded = model if isinstance(model, LoadedModel) else model_of(dictionary, model)
    check_model(dictionary, loaded)
    text_held = held_out(dictionary, loaded, text, max_tokens=max_tokens, field=field, report=report)
    coders = of_dictionary(dictionary, usable, basis, method)
    coders += of_random_activations(dictionary, text_held.pool_nd, usable, method, seed)
    coders += of_sae(sae, usable, method) if sae is not None else []
    spread = Spread(text_held.x_nd, text_held.document_n)
    tallies = [Tally(coder, spread) for coder in coders]
    predictions = _run(text_held, tallies, report, Splicing(loaded, dictionary.config.site.name) if splice else None)
    bootstrap = Bootstrap(spread.documents, seed)
    ce_clean, ce_zero, ce_mean = predictions.each() if predictions is not None else (None, None, None)
    return Evaluation(
        dictionary=str(dictionary.path),
        site=dictionary.config.site.name,
        text=text_held.source,
        documents=spread.documents,
        tokens=len(text_held.document_n),
        outlier_coordinates=int((~spread.inside_d).sum()),
        ce_clean=ce_clean,
        ce_zero=ce_zero,
        ce_mean=ce_mean,
        rows=[tally.row(bootstrap, predictions) for tally in tallies],
    )


class Splicing(NamedTuple):
    """A model, and the site where rebuilt activations go in."""

    loaded: LoadedModel
    site: str


def _check_sae(dictionary: StoredDictionary, sae: SparseAutoencoder | None) -> None:
    if sae is None:
        return
    if sae.W_dec.shape[1] != dictionary.d_model:
        raise EPError(
            f"the autoencoder has width {sae.W_dec.shape[1]}, the dictionary d_model = {dictionary.d_model}; "
            "give an autoencoder of the same model and site"
        )
    site = dictionary.config.site
    names = (site.name, site.transformer_lens, site.module_path)
    if sae.site is not None and not any(name is not None and name.endswith(sae.site) for name in names):
        raise EPError(
            f"the autoencoder's files name the site {sae.site}, the dictionary is of {site.transformer_lens}; "
            "give an autoencoder of the same site"
        )


def _run(text: HeldOut, tallies: Sequence[Tally], report: Report, splicing: Splicing | None) -> Predictions | None:
    """Rebuild all passages with every kind of code; count errors, and predictions if there is a model for them."""
    spread = tallies[0].spread
    predictions = Predictions(*np.zeros((4, spread.documents)))
    for first in range(0, len(text.passages), _PASSAGES):
        report("evaluating passages", first, len(text.passages))
        part = text.passages[first : first + _PASSAGES]
        document_p = text.document_p[first : first + _PASSAGES]
        length_p = [len(passage.text_s) for passage in part]
        x_nd = torch.cat([passage.x_sd for passage in part])
        rebuilt = [tally.coder.rebuilt(x_nd) for tally in tallies]
        for tally, got in zip(tallies, rebuilt, strict=True):
            tally.add(x_nd, got, np.repeat(document_p, length_p))
        if splicing is None:
            continue
        pieces = zip(*(got.x_nd.split(length_p) for got in rebuilt), strict=True)
        for done, (passage, w, piece) in enumerate(zip(part, document_p, pieces, strict=True), first):
            report("evaluating passages", done, len(text.passages))
            spliced = Spliced(splicing.loaded, splicing.site, passage)
            mean_sd = spread.mean_d.expand(len(passage.text_s), -1)
            predictions.count_w[w] += len(spliced.target_p)
            predictions.clean_w[w] += spliced.ce()
            predictions.zero_w[w] += spliced.with_rows(torch.zeros_like(mean_sd))[0]
            predictions.mean_w[w] += spliced.with_rows(mean_sd)[0]
            for tally, x_sd in zip(tallies, piece, strict=True):
                ce, kl = spliced.with_rows(x_sd)
                tally.ce_w[w] += ce
                tally.kl_w[w] += kl
    return predictions if splicing is not None else None
