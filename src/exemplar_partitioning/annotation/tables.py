"""The evidence about a dictionary as tables: regions and examples, with tokens as text, and the logit lens."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..models.lens import lens
from ..models.load import LoadedModel, special_token_ids
from ..reading import token_texts
from ..store import StoredDictionary
from . import folder
from .evidence import BEFORE, Evidence
from .examples import NONE
from .tokens import PairCounts

TOP_TOKENS = 10  # kept of each list
LIKELIEST = 256  # tokens that the lens chooses from


class Tables:
    """What goes into regions.parquet and examples.parquet.

    names: documents that examples come from, by hash.
    """

    def __init__(self, loaded: LoadedModel, dictionary: StoredDictionary, evidence: Evidence, names: dict[int, str]):
        self.loaded, self.dictionary, self.evidence, self.names = loaded, dictionary, evidence, names

    @cached_property
    def regions(self) -> pa.Table:
        """The rows of regions.parquet."""
        evidence, k = self.evidence, self.dictionary.k
        totals = evidence.totals
        exemplar_lens, mean_lens = self._lens(torch.from_numpy(totals.mean_directions))
        half_k = evidence.halves.members.reshape(k, 2)[:, 0]
        columns = {
            "region": np.arange(k),
            "members": totals.members,
            "within": evidence.within_k,
            "coherence": _or_null(totals.coherence),
            "mean_distance": _or_null(totals.mean_distance),
            "std_distance": _or_null(np.sqrt(totals.distance_variance)),
            "half": half_k,
            "stability": _or_null(evidence.stability),
            "top_tokens": self._tokens(evidence.at, k),
            "before_tokens": self._tokens(evidence.before, k),
            "lens_top": exemplar_lens[0],
            "lens_bottom": exemplar_lens[1],
            "mean_lens_top": _only(mean_lens[0], totals.members),
            "mean_lens_bottom": _only(mean_lens[1], totals.members),
            "examples": np.bincount(self.examples["region"].to_numpy(), minlength=k),
        }
        schema = folder.REGIONS_SCHEMA
        return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)

    def _tokens(self, counts: PairCounts, k: int) -> list[list[dict[str, Any]]]:
        found = counts.characteristic(k, TOP_TOKENS)
        names = self._names_of([token.token_id for row in found for token in row])
        return [
            [{"token_id": t.token_id, "token": names[t.token_id], "count": t.count, "lift": t.lift} for t in row]
            for row in found
        ]

    def _names_of(self, ids: Iterable[int]) -> dict[int, str]:
        distinct = sorted(set(ids))
        texts = self.loaded.tokenizer.batch_decode([[i] for i in distinct], clean_up_tokenization_spaces=False)
        return dict(zip(distinct, texts, strict=True))

    def _lens(self, mean_kd: Tensor) -> list[tuple[list[Any], list[Any]]]:
        """Tokens that exemplars, and means, promote and suppress: against what the centre predicts.

        A step from the centre along each direction, as long for all (`typical_radius`), changes the model's
        prediction from p0 to p. Tokens rank by their part in the Kullback-Leibler divergence: p log(p / p0) for
        those promoted, p0 log(p0 / p) for those suppressed, among the LIKELIEST under p and p0. (By the bare
        change of logits, rare tokens that are never likely anywhere would fill every list.)
        """
        dictionary, center, left_out = self.dictionary, self.dictionary.center, self._left_out()
        points = torch.cat([dictionary.exemplars, mean_kd]) * dictionary.typical_radius + center
        (base_v,) = _predictions(next(lens(self.loaded, center[None])), left_out)
        count = min(LIKELIEST, int(base_v.isfinite().sum()))
        likely_at_center = base_v.topk(count).indices
        # filled in place: small results kept between large temporaries would fragment the heap without end
        best_3snt = np.empty((3, 2, len(points), min(TOP_TOKENS, count)))
        done = 0
        for logits_bv in lens(self.loaded, points):
            log_bv = _predictions(logits_bv, left_out)
            rows = slice(done, done + len(log_bv))
            for side, ids_bt in enumerate((log_bv.topk(count).indices, likely_at_center.expand(len(log_bv), -1))):
                log_bt, base_bt = log_bv.gather(1, ids_bt), base_v[ids_bt]
                part_bt = (log_bt.exp() if side == 0 else -base_bt.exp()) * (log_bt - base_bt)
                best = part_bt.topk(best_3snt.shape[-1]).indices
                for which, values in enumerate((ids_bt, log_bt.exp(), log_bt - base_bt)):
                    best_3snt[which, side, rows] = values.gather(1, best).numpy()
            done = rows.stop
        names = self._names_of(np.unique(best_3snt[0]).astype(int).tolist())
        ids, probability, change = best_3snt
        lists = [_promoted(ids[i], probability[i], change[i], sign, names) for i, sign in ((0, 1), (1, -1))]
        k = dictionary.k
        return [(lists[0][:k], lists[1][:k]), (lists[0][k:], lists[1][k:])]

    def _left_out(self) -> list[int]:
        """Token ids that are not text: special ones, and rows of the embedding without a token."""
        tokenizer = self.loaded.tokenizer
        return [*special_token_ids(tokenizer), *range(len(tokenizer), self.loaded.architecture.vocab_size)]

    @cached_property
    def examples(self) -> pa.Table:
        """The rows of examples.parquet, sorted by region, kind and rank."""
        parts = []
        for kind, best in self.evidence.examples.items():
            region, rank = np.nonzero(best.key != NONE)
            parts.append((region, np.full(len(region), folder.KINDS.index(kind)), rank, best))
        region = np.concatenate([part[0] for part in parts])
        kind = np.concatenate([part[1] for part in parts])
        rank = np.concatenate([part[2] for part in parts])
        order = np.lexsort((rank, kind, region))

        def column(name: str) -> np.ndarray:
            return np.concatenate([best.payload[name][r, place] for r, _, place, best in parts])[order]

        document = np.concatenate([best.document[r, place] for r, _, place, best in parts])[order]
        position = np.concatenate([best.position[r, place] for r, _, place, best in parts])[order]
        tokens_et, heat_et = column("tokens"), column("heat")
        inside_et = tokens_et >= 0
        ids = [row[inside] for row, inside in zip(tokens_et, inside_et, strict=True)]
        columns = {
            "region": region[order],
            "kind": np.array(folder.KINDS)[kind[order]],
            "rank": rank[order],
            "distance": column("distance"),
            "document": [self.names[int(key)] for key in document],
            "position": position,
            "at": inside_et[:, :BEFORE].sum(axis=1),
            "token_ids": _lists(tokens_et, inside_et, "token_ids"),
            "tokens": self._texts(ids),
            "distances": _lists(heat_et, inside_et, "distances"),
        }
        schema = folder.EXAMPLES_SCHEMA
        return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)

    def _texts(self, ids: list[np.ndarray]) -> list[list[str]]:
        """The texts of runs of tokens; only runs with broken characters are decoded as runs."""
        names = self._names_of(np.unique(np.concatenate(ids)).tolist()) if ids else {}
        texts = []
        for run in ids:
            pieces = [names[int(i)] for i in run]
            broken = any("\ufffd" in piece for piece in pieces)
            texts.append(token_texts(self.loaded.tokenizer, run) if broken else pieces)
        return texts


def _lists(values_et: np.ndarray, inside_et: np.ndarray, column: str) -> pa.Array:
    """The values inside, a list a row, as that column of examples.parquet has them; NaN becomes null."""
    offsets = np.concatenate([[0], np.cumsum(inside_et.sum(axis=1))]).astype(np.int32)
    kind = folder.EXAMPLES_SCHEMA.field(column).type
    values = pa.array(values_et[inside_et], kind.value_type, from_pandas=True)
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def _predictions(logits_bv: Tensor, left_out: list[int]) -> Tensor:
    """Log probabilities, in place; -inf for the tokens left out."""
    logits_bv = logits_bv.clone() if logits_bv.is_inference() else logits_bv
    logits_bv[:, left_out] = -torch.inf
    return logits_bv.sub_(logits_bv.logsumexp(dim=1, keepdim=True))


def _promoted(
    ids_nt: np.ndarray, probability_nt: np.ndarray, change_nt: np.ndarray, sign: int, names: dict[int, str]
) -> list[list[dict[str, Any]]]:
    """Per row the tokens whose log probability changed in the direction of `sign`."""
    return [
        [
            {"token_id": int(i), "token": names[int(i)], "probability": float(p), "lift": float(np.exp(c))}
            for i, p, c in zip(ids, probability, change, strict=True)
            if sign * c > 0
        ]
        for ids, probability, change in zip(ids_nt, _four_digits(probability_nt), _four_digits(change_nt), strict=True)
    ]


def _four_digits(values: np.ndarray) -> np.ndarray:
    """Rounded to four significant digits, so that the last bits of a forward pass do not show."""
    scale = 10.0 ** (3 - np.floor(np.log10(np.maximum(np.abs(values), 1e-30))))
    return np.round(values * scale) / scale


def _only(rows: list[list[Any]], members_k: np.ndarray) -> list[list[Any]]:
    """Nothing where there are no members, so no mean."""
    return [row if members else [] for row, members in zip(rows, members_k, strict=True)]


def _or_null(values_k: np.ndarray) -> pa.Array:
    return pa.array(values_k, from_pandas=True)
