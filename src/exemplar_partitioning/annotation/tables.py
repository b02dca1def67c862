"""The evidence about a dictionary as tables: regions and examples, with tokens as text, and the logit lens."""

from __future__ import annotations

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

    names: documents that examples come from, by hash.  totals, mean_directions: of the members.
    """

    def __init__(self, loaded: LoadedModel, dictionary: StoredDictionary, evidence: Evidence, names: dict[int, str]):
        self.loaded, self.dictionary, self.evidence, self.names = loaded, dictionary, evidence, names
        self.totals = evidence.totals
        self.mean_directions = self.totals.mean_directions

    @cached_property
    def regions(self) -> pa.Table:
        """The rows of regions.parquet."""
        evidence, k, totals = self.evidence, self.dictionary.k, self.totals
        with_mean_k = totals.members > 0
        (top, bottom), (mean_top, mean_bottom) = self._lens(torch.from_numpy(self.mean_directions), with_mean_k)
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
            "lens_top": top,
            "lens_bottom": bottom,
            "mean_lens_top": mean_top,
            "mean_lens_bottom": mean_bottom,
            "examples": np.bincount(self.examples["region"].to_numpy(), minlength=k),
        }
        schema = folder.REGIONS_SCHEMA
        return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)

    def _tokens(self, counts: PairCounts, k: int) -> pa.Array:
        found = counts.characteristic(k, TOP_TOKENS)
        flat = [token for row in found for token in row]
        ids = np.array([token.token_id for token in flat], np.int64)
        return _list_array(
            np.array([len(row) for row in found]),
            folder.REGIONS_SCHEMA.field("top_tokens").type,
            token_id=ids,
            token=self._texts_of(ids),
            count=[token.count for token in flat],
            lift=[token.lift for token in flat],
        )

    def _texts_of(self, ids: np.ndarray) -> np.ndarray:
        """The text of each token, decoded by itself."""
        distinct, inverse = np.unique(ids, return_inverse=True)
        texts = self.loaded.tokenizer.batch_decode([[int(i)] for i in distinct], clean_up_tokenization_spaces=False)
        return np.array(texts, dtype=object)[inverse]

    def _lens(self, mean_kd: Tensor, with_mean_k: np.ndarray) -> tuple[tuple[pa.Array, pa.Array], ...]:
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
        k, exists = dictionary.k, np.concatenate([np.full(dictionary.k, True), with_mean_k])
        columns = []
        for part in (slice(None, k), slice(k, None)):
            sides = ((best_3snt[:, side, part], sign) for side, sign in ((0, 1), (1, -1)))
            columns.append(tuple(self._promoted(best_3nt, sign, exists[part]) for best_3nt, sign in sides))
        return tuple(columns)

    def _promoted(self, best_3nt: np.ndarray, sign: int, exists_n: np.ndarray) -> pa.Array:
        """Per row the tokens whose log probability changed in the direction of `sign`; none where no row exists."""
        ids, probability, change = best_3nt
        inside = (sign * change > 0) & exists_n[:, None]
        return _list_array(
            inside.sum(axis=1),
            folder.REGIONS_SCHEMA.field("lens_top").type,
            token_id=ids[inside],
            token=self._texts_of(ids[inside]),
            probability=_four_digits(probability[inside]),
            lift=np.exp(_four_digits(change[inside])),
        )

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
        length_e = inside_et.sum(axis=1)
        columns = {
            "region": region[order],
            "kind": np.array(folder.KINDS)[kind[order]],
            "rank": rank[order],
            "distance": column("distance"),
            "document": [self.names[int(key)] for key in document],
            "position": position,
            "at": inside_et[:, :BEFORE].sum(axis=1),
            "token_ids": _example_lists("token_ids", tokens_et[inside_et], length_e),
            "tokens": _example_lists("tokens", self._running_texts(tokens_et[inside_et], length_e), length_e),
            "distances": _example_lists("distances", heat_et[inside_et], length_e),
        }
        schema = folder.EXAMPLES_SCHEMA
        return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)

    def _running_texts(self, ids: np.ndarray, length_e: np.ndarray) -> np.ndarray:
        """The texts of runs of tokens, one after another; a run with a broken character is decoded as a run."""
        texts = self._texts_of(ids)
        distinct = np.unique(ids)
        broken = np.isin(ids, distinct[["\ufffd" in text for text in self._texts_of(distinct)]])
        ends = np.cumsum(length_e)
        for run in np.unique(np.searchsorted(ends, np.flatnonzero(broken), side="right")):
            part = slice(ends[run] - length_e[run], ends[run])
            texts[part] = token_texts(self.loaded.tokenizer, ids[part])
        return texts


def _example_lists(column: str, values: np.ndarray, length_e: np.ndarray) -> pa.Array:
    """Values as lists of these lengths, as that column of examples.parquet has them; NaN becomes null."""
    kind = folder.EXAMPLES_SCHEMA.field(column).type
    return pa.ListArray.from_arrays(_offsets(length_e), pa.array(values, kind.value_type, from_pandas=True), type=kind)


def _list_array(length_n: np.ndarray, kind: pa.DataType, **fields: Any) -> pa.Array:
    """Lists of structs of these lengths, from the fields of all of them one after another."""
    arrays = [pa.array(fields[field.name], field.type) for field in kind.value_type]
    structs = pa.StructArray.from_arrays(arrays, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(_offsets(length_n), structs, type=kind)


def _offsets(length_n: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(length_n)]).astype(np.int32)


def _predictions(logits_bv: Tensor, left_out: list[int]) -> Tensor:
    """Log probabilities, in place; -inf for the tokens left out."""
    logits_bv = logits_bv.clone() if logits_bv.is_inference() else logits_bv
    logits_bv[:, left_out] = -torch.inf
    return logits_bv.sub_(logits_bv.logsumexp(dim=1, keepdim=True))


def _four_digits(values: np.ndarray) -> np.ndarray:
    """Rounded to four significant digits, so that the last bits of a forward pass do not show."""
    scale = 10.0 ** (3 - np.floor(np.log10(np.maximum(np.abs(values), 1e-30))))
    return np.round(values * scale) / scale


def _or_null(values_k: np.ndarray) -> pa.Array:
    return pa.array(values_k, from_pandas=True)
