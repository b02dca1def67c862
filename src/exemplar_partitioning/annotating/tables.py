"""The evidence about a dictionary as tables: regions and examples, with tokens as text, and the logit lens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int64
from torch import Tensor

from ..errors import EPError
from ..folder import annotation as folder
from ..folder.dictionary import StoredDictionary
from ..models.identity import special_token_ids
from ..models.lens import lens
from ..models.loaded import LoadedModel
from ..text.tokens import token_texts
from .best_rows import NONE, BestRows
from .evidence import BEFORE, BEYOND, Evidence
from .token_counts import PairCounts

VOCABULARY = 1 << 18  # ids, of a tokenizer that is not known
TOP_TOKENS = 10  # kept of each list
LIKELIEST = 256  # tokens that the lens chooses from

_LOGIT_ROWS = 8  # rows of logits whose exponentials are held at once
_EXAMPLE_ROWS = 8 * folder.ROW_GROUP  # rows of examples made into a table at once

_MOST = 88.72  # change of a log probability whose exponential float32 holds


class Tables:
    """What goes into regions.parquet and examples.parquet.

    Takes the sums over members out of the evidence, which are large, and keeps what follows from them.

    Attributes:
        loaded: None where no model is known, nor any lens.
        texts: of the model's tokens.
        names: documents that examples come from, by hash.
        members, skipped, mean_directions: as in MemberStatistics, both halves together.
    """

    def __init__(
        self,
        loaded: LoadedModel | None,
        texts: TokenTexts,
        dictionary: StoredDictionary,
        evidence: Evidence,
        names: dict[int, str],
    ):
        self.loaded, self.texts, self.dictionary, self.evidence, self.names = loaded, texts, dictionary, evidence, names
        totals = evidence.totals
        self.members, self.skipped, self.mean_directions = totals.members, totals.skipped, totals.mean_directions
        self._statistics = {
            "coherence": _or_null(totals.coherence),
            "mean_distance": _or_null(totals.mean_distance),
            "std_distance": _or_null(np.sqrt(totals.distance_variance)),
            "half": evidence.halves.members.reshape(-1, 2)[:, 0].copy(),
            "stability": _or_null(evidence.stability),
        }
        del evidence.halves

    @property
    def regions(self) -> pa.Table:
        """The rows of regions.parquet."""
        evidence = self.evidence
        (top, bottom), (mean_top, mean_bottom) = self._lens()
        columns = self._statistics | {
            "region": np.arange(self.dictionary.k),
            "members": self.members,
            "within": evidence.within_k,
            "top_tokens": self._tokens(evidence.at),
            "before_tokens": self._tokens(evidence.before),
            "lens_top": top,
            "lens_bottom": bottom,
            "mean_lens_top": mean_top,
            "mean_lens_bottom": mean_bottom,
            "examples": sum((best.key != NONE).sum(axis=1) for best in evidence.examples.values()),
        }
        return _table(folder.REGIONS_SCHEMA, columns)

    def _tokens(self, counts: PairCounts) -> pa.Array:
        top_tokens = counts.characteristic(TOP_TOKENS)
        return _list_array(
            top_tokens.length_k,
            folder.REGIONS_SCHEMA.field("top_tokens").type,
            token_id=top_tokens.token_p,
            token=self.texts[top_tokens.token_p],
            count=top_tokens.count_p,
            lift=top_tokens.lift_p,
        )

    def _lens(self) -> tuple[tuple[pa.Array, pa.Array], ...]:
        """Tokens that exemplars, and means, promote and suppress: against what the centre predicts.

        A step from the centre along each direction, as long for all (`typical_radius`), changes the model's
        prediction from p0 to p. Tokens rank by their part in the Kullback-Leibler divergence: p log(p / p0) for
        those promoted, p0 log(p0 / p) for those suppressed, among the LIKELIEST under p and p0. (By the bare
        change of logits, rare tokens that are never likely anywhere would fill every list.)
        """
        dictionary, center = self.dictionary, self.dictionary.center
        if self.loaded is None or self.loaded.no_lens is not None or dictionary.config.no_lens is not None:
            # nothing is claimed of what was found untrue: the lists stay empty
            none = self._promoted(np.zeros((3, dictionary.k, 0)), 1, np.full(dictionary.k, False))
            return (none, none), (none, none)
        left_out = _left_out(self.loaded)
        steps = [torch.zeros(1, dictionary.d_model), dictionary.exemplars, torch.from_numpy(self.mean_directions)]
        batches = lens(self.loaded, torch.cat(steps).mul_(dictionary.typical_radius).add_(center))
        (base_v,) = _predictions(next(batches), left_out)  # the first point, the centre, comes alone
        count = min(LIKELIEST, int(base_v.isfinite().sum()))
        likely_at_center = base_v.topk(count).indices
        # filled in place: small results kept between large temporaries would fragment the heap without end
        best_3snt = np.empty((3, 2, 2 * dictionary.k, min(TOP_TOKENS, count)))
        done = 0
        for logits_bv in batches:
            log_bv = _predictions(logits_bv, left_out)
            rows = slice(done, done + len(log_bv))
            for side, ids_bt in enumerate((log_bv.topk(count).indices, likely_at_center.expand(len(log_bv), -1))):
                log_bt, base_bt = log_bv.gather(1, ids_bt), base_v[ids_bt]
                part_bt = (log_bt.exp() if side == 0 else -base_bt.exp()) * (log_bt - base_bt)
                best = part_bt.topk(best_3snt.shape[-1]).indices
                for which, values in enumerate((ids_bt, log_bt.exp(), log_bt - base_bt)):
                    best_3snt[which, side, rows] = values.gather(1, best).numpy()
            done = rows.stop
        k, exists = dictionary.k, np.concatenate([np.full(dictionary.k, True), self.members > 0])
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
            token=self.texts[ids[inside].astype(np.int64)],
            probability=_four_digits(probability[inside]),
            lift=np.exp(np.minimum(_four_digits(change[inside]), _MOST)),
        )

    def examples(self) -> Iterator[pa.Table]:
        """The rows of examples.parquet, sorted by region, kind and rank; some row groups at a time."""
        filled = [np.nonzero(self.evidence.examples[kind].key != NONE) for kind in folder.KINDS]
        kind = np.repeat(np.arange(len(filled)), [len(region) for region, _ in filled])
        region, rank = (np.concatenate(parts) for parts in zip(*filled, strict=True))
        order = np.lexsort((rank, kind, region))
        for start in range(0, len(order), _EXAMPLE_ROWS):
            part = order[start : start + _EXAMPLE_ROWS]
            yield self._example_rows(region[part], kind[part], rank[part])

    def _example_rows(self, region_e: np.ndarray, kind_e: np.ndarray, rank_e: np.ndarray) -> pa.Table:
        def column(of: Callable[[BestRows], np.ndarray]) -> np.ndarray:
            kept = [of(self.evidence.examples[kind]) for kind in folder.KINDS]
            values = np.empty((len(region_e), *kept[0].shape[2:]), kept[0].dtype)
            for kind, kept_km in enumerate(kept):
                mine = kind_e == kind
                values[mine] = kept_km[region_e[mine], rank_e[mine]]
            return values

        tokens_et, heat_et = column(lambda best: best.payload["tokens"]), column(lambda best: best.payload["heat"])
        inside_et = tokens_et != BEYOND
        length_e = inside_et.sum(axis=1)
        heat = heat_et[inside_et]
        columns = {
            "region": region_e,
            "kind": np.array(folder.KINDS)[kind_e],
            "rank": rank_e,
            "distance": column(lambda best: best.payload["distance"]),
            "document": [self.names[int(key)] for key in column(lambda best: best.document)],
            "position": column(lambda best: best.position),
            "at": inside_et[:, :BEFORE].sum(axis=1),
            "token_ids": _lists("token_ids", tokens_et[inside_et], length_e),
            "tokens": _lists("tokens", self.texts.running(tokens_et[inside_et], length_e), length_e),
            "distances": _lists("distances", np.where(heat < 0, np.nan, heat / np.float32(1000)), length_e),
        }
        return _table(folder.EXAMPLES_SCHEMA, columns)


def _left_out(loaded: LoadedModel) -> list[int]:
    """Token ids that are not text: special ones, and rows of the embedding without a token."""
    return [*special_token_ids(loaded.tokenizer), *range(len(loaded.tokenizer), loaded.architecture.vocab_size)]


class TokenTexts:
    """The texts of a tokenizer's tokens, each decoded when it is first asked for; without a tokenizer, none."""

    def __init__(self, tokenizer: Any, vocab_size: int):
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self._known = np.full(vocab_size + 1, tokenizer is None)
        self._known[-1] = True  # of tokens that are not known: their id is -1
        self._texts = np.full(vocab_size + 1, "", object)
        self._broken = np.zeros(vocab_size + 1, bool)

    def _know(self, ids: Int64[np.ndarray, " n"]) -> None:
        if len(ids) and ids.max() >= self.vocab_size:
            raise EPError(
                f"token id {ids.max()} is beyond the {self.vocab_size:,} of the tokenizer; give whose ids it is"
            )
        new = np.unique(ids[~self._known[ids]])
        if not len(new):
            return
        texts = self.tokenizer.batch_decode([[int(i)] for i in new], clean_up_tokenization_spaces=False)
        self._texts[new] = texts
        self._broken[new] = ["\ufffd" in text for text in texts]
        self._known[new] = True

    def __getitem__(self, ids: Int64[np.ndarray, " n"]) -> np.ndarray:
        """Texts of single tokens."""
        self._know(ids)
        return self._texts[ids]

    def running(self, ids: Int64[np.ndarray, " n"], length_e: Int64[np.ndarray, " e"]) -> np.ndarray:
        """The texts of runs of tokens, one after another; a run with a broken character is decoded as a run."""
        texts = self[ids]
        ends = np.cumsum(length_e)
        for run in np.unique(np.searchsorted(ends, np.flatnonzero(self._broken[ids]), side="right")):
            part = slice(ends[run] - length_e[run], ends[run])
            texts[part] = token_texts(self.tokenizer, ids[part])
        return texts


def _table(schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _lists(column: str, values: np.ndarray, length_e: np.ndarray) -> pa.Array:
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
    logits_bv[:, left_out] = -torch.inf
    for rows_bv in logits_bv.split(_LOGIT_ROWS):
        rows_bv.sub_(rows_bv.logsumexp(dim=1, keepdim=True))
    return logits_bv


def _four_digits(values: np.ndarray) -> np.ndarray:
    """Rounded to four significant digits, so that the last bits of a forward pass do not show."""
    scale = 10.0 ** (3 - np.floor(np.log10(np.maximum(np.abs(values), 1e-30))))
    return np.round(values * scale) / scale


def _or_null(values_k: np.ndarray) -> pa.Array:
    return pa.array(values_k, from_pandas=True)
