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
        prediction. Tokens rank by their part in the Kullback-Leibler divergence, p log(p / p0) and p0 log(p0 / p):
        by the probability they gain or lose. (By the bare change of logits, rare tokens that are never
        likely anywhere would fill every list.)
        """
        dictionary, center = self.dictionary, self.dictionary.center
        points = torch.cat([dictionary.exemplars, mean_kd]) * dictionary.typical_radius + center
        base_v = self._prediction(next(lens(self.loaded, center[None])))[0]
        found: dict[str, list[Tensor]] = {"ids": [], "probability": [], "change": []}
        for logits_bv in lens(self.loaded, points):
            log_bv = self._prediction(logits_bv)
            change_bv = (log_bv - base_v).nan_to_num_(0.0)  # tokens left out have no probability in either
            ids_b2t = torch.stack(
                [(weight * change_bv).topk(TOP_TOKENS).indices for weight in (log_bv.exp(), -base_v.exp())], dim=1
            )
            at_b = torch.arange(len(log_bv))[:, None, None]
            for name, values in (("ids", ids_b2t), ("probability", log_bv[at_b, ids_b2t].exp())):
                found[name].append(values)
            found["change"].append(change_bv[at_b, ids_b2t])
        ids, probability, change = (torch.cat(parts).numpy() for parts in found.values())
        names = self._names_of(np.unique(ids).tolist())
        lists = [_promoted(ids[:, i], probability[:, i], change[:, i], sign, names) for i, sign in ((0, 1), (1, -1))]
        k = dictionary.k
        return [(lists[0][:k], lists[1][:k]), (lists[0][k:], lists[1][k:])]

    def _prediction(self, logits_bv: Tensor) -> Tensor:
        """Log probabilities of the tokens that are text, -inf for the others."""
        tokenizer = self.loaded.tokenizer
        beyond = range(len(tokenizer), logits_bv.shape[1])  # rows of the embedding without a token
        logits_bv = logits_bv.clone()
        logits_bv[:, [*special_token_ids(tokenizer), *beyond]] = -torch.inf
        return logits_bv.log_softmax(dim=1)

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
