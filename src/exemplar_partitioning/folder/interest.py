"""Which regions have most to tell: what lists, reports and pages put first.

A partition's largest regions are those of `.`, `the` and `,`: one word each, wherever it stands. What is worth
reading holds several words, from many documents, and makes the model expect what other regions do not.

Shapes: k regions, p (region, token) pairs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import EPError
from .annotation import Annotation
from .listing import OnDisk

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

SINGLE_WORD = 0.9
"""Share of a region's members that are one word, from which the region is that word's."""
ENOUGH = 30
"""Members from which examples, means and lens tell something."""
COMMON = 0.01
"""Share of the regions that promote a token, from which it tells nothing about one of them."""

_MOST = 0.5  # share of regions that makes a percentile fit for reading
_SPREAD = 8  # documents among the examples from which more say no more
_UNNAMED = 0.25  # what a member counts that none of its region's characteristic tokens names
_TIMES = 2.0  # as much as the average region, from which a token is promoted beyond it
_WORD = r"[^\W\d_]{3,}"


class Interest:
    """Columns [k] over the regions of an annotated dictionary; NaN where a region has no members, or no lens."""

    def __init__(self, annotation: Annotation):
        self._annotation = annotation
        self._regions = annotation.regions

    @cached_property
    def members(self) -> Int64[np.ndarray, " k"]:
        """How many activations belong to each."""
        return self._regions["members"].to_numpy()

    @cached_property
    def _words(self) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """Shares of the members: of the commonest word form; of other forms that are words, and a part of the rest."""
        lists = self._regions["top_tokens"].combine_chunks()
        trimmed = pc.call_function("utf8_trim_whitespace", [lists.values.field("token")])
        pairs = {"region": _owners(lists), "form": pc.call_function("utf8_lower", [trimmed])}
        counted = pa.table(pairs | {"count": lists.values.field("count")})
        forms = counted.group_by(["region", "form"]).aggregate([("count", "sum")])
        region_p, count_p = forms["region"].to_numpy(), forms["count_sum"].to_numpy()
        word_p = np.array([bool(re.fullmatch(_WORD, form)) for form in forms["form"].to_pylist()], bool)
        first_p = np.lexsort((-count_p, region_p))
        first_p = first_p[np.unique(region_p[first_p], return_index=True)[1]]  # the commonest form of each region
        most_k, words_k = np.zeros(len(lists)), np.bincount(region_p, count_p * word_p, minlength=len(lists))
        most_k[region_p[first_p]] = count_p[first_p]
        words_k[region_p[first_p]] -= (count_p * word_p)[first_p]
        unnamed_k = self.members - np.bincount(region_p, count_p, minlength=len(lists))
        some_k = np.where(self.members > 0, self.members, np.nan)
        return np.minimum(1, most_k / some_k), np.clip((words_k + _UNNAMED * unnamed_k) / some_k, 0, 1)

    @property
    def identity(self) -> Float64[np.ndarray, " k"]:
        """Share of the members whose token is the commonest word form: tokens alike but for case and space are one."""
        return self._words[0]

    @cached_property
    def documents(self) -> Int64[np.ndarray, " k"]:
        """Different documents among the examples: of each kind, no two are of the same one."""
        rows = self._annotation.example_columns(["region", "document"]).group_by("region")
        counted = rows.aggregate([("document", "count_distinct")])
        documents_k = np.zeros(len(self.members), np.int64)
        documents_k[counted["region"].to_numpy()] = counted["document_count_distinct"].to_numpy()
        return documents_k

    @cached_property
    def _lens(self) -> tuple[Float64[np.ndarray, " p"], Float64[np.ndarray, " k"]]:
        """Of each promoted token, the log lift beyond that by the average region; the share this is for each region.

        Tokens that a region does not list are not lifted by it.
        """
        lists = self._regions["mean_lens_top"].combine_chunks()
        pairs = {"token": lists.values.field("token"), "region": _owners(lists)}
        log_p = np.log(np.maximum(1, lists.values.field("lift").to_numpy().astype(float)))
        rows = pa.table(pairs | {"log": log_p})
        summed = rows.group_by("token").aggregate([("log", "sum")])
        mean_p = summed["log_sum"].to_numpy() / max(1, int((self.members > 0).sum()))
        average = dict(zip(summed["token"].to_pylist(), mean_p.tolist(), strict=True))
        beyond_p = log_p - np.array([average[token] for token in rows["token"].to_pylist()])
        parts = (log_p, np.maximum(0, beyond_p))
        whole_k, beyond_k = (np.bincount(pairs["region"], each, minlength=len(lists)) for each in parts)
        return beyond_p, np.divide(beyond_k, whole_k, out=np.full(len(lists), np.nan), where=whole_k > 0)

    @property
    def contrast(self) -> Float64[np.ndarray, " k"]:
        """How much of what the mean member promotes the average region does not: a share of the log lifts."""
        return self._lens[1]

    def beyond(self, index: int) -> list[dict[str, Any]]:
        """The contrast lens: what a region's mean member promotes beyond the average region, most telling first.

        Rows of `mean_lens_top` that the region lifts at least twice as much as the average region does, with how many
        times as `beyond`; none where the region does not differ.
        """
        offsets = self._regions["mean_lens_top"].combine_chunks().offsets.to_numpy()
        times = np.exp(self._lens[0][offsets[index] : offsets[index + 1]]).tolist()
        rows = zip(self._annotation.region(index)["mean_lens_top"], times, strict=True)
        kept = [row | {"beyond": beyond} for row, beyond in rows if beyond >= _TIMES]
        return sorted(kept, key=lambda row: -row["beyond"])

    @cached_property
    def promoted(self) -> list[list[str]]:
        """The tokens of `beyond` of every region."""
        lists = self._regions["mean_lens_top"].combine_chunks()
        kept_p = np.flatnonzero(self._lens[0] >= np.log(_TIMES))
        owner_p = _owners(lists)[kept_p]
        kept_p = kept_p[np.lexsort((-self._lens[0][kept_p], owner_p))]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner_p, minlength=len(lists)))])
        tokens = lists.values.field("token").take(pa.array(kept_p))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), tokens).to_pylist()

    @cached_property
    def common(self) -> frozenset[str]:
        """Tokens that the means of many regions promote: rare ones, mostly, whose unembedding fits any direction."""
        promoted = self._regions["mean_lens_top"].combine_chunks().values.field("token").value_counts()
        often = promoted.field("counts").to_numpy() > max(2, int(COMMON * len(self._regions)))
        return frozenset(promoted.field("values").filter(pa.array(often)).to_pylist())

    @cached_property
    def score(self) -> Float64[np.ndarray, " k"]:
        """Interest, 0 to 1: share of words beside the commonest, times spread over documents, size and contrast."""
        spread_k = np.minimum(1, self.documents / _SPREAD)
        sized_k = np.minimum(1, np.log1p(self.members) / np.log1p(ENOUGH))
        return self._words[1] * spread_k * sized_k * np.nan_to_num(self.contrast, nan=1.0)

    @cached_property
    def single_word(self) -> Bool[np.ndarray, " k"]:
        """Regions of one word."""
        return self.identity >= SINGLE_WORD

    @cached_property
    def order(self) -> Int64[np.ndarray, " k"]:
        """All regions, the most interesting first; equal ones by size, those without members last."""
        return np.lexsort((-self.members, -np.nan_to_num(self.score, nan=-1)))

    def row(self, index: int) -> dict[str, Any]:
        """What there is about one region, as plain values."""
        names = ("identity", "documents", "contrast", "score")
        return {name: getattr(self, name)[index].item() for name in names}


def ordered(dictionary: OnDisk, sort: str = "interest") -> Int64[np.ndarray, " k"]:
    """All regions of a dictionary by `interest` or `members`; without annotation, by online counts.

    Raises EPError for another order.
    """
    if sort not in ("interest", "members"):
        raise EPError(f"regions cannot be sorted by {sort!r}; expected interest or members")
    if dictionary.annotated and sort == "interest":
        return dictionary.annotation.interest.order
    return np.argsort(-sizes(dictionary), kind="stable")


def sizes(dictionary: OnDisk) -> Int64[np.ndarray, " k"]:
    """Members of every region; online counts without annotation."""
    column = dictionary.annotation.regions["members"] if dictionary.annotated else dictionary.regions["arrivals"]
    return column.to_numpy()


def advised(dictionaries: Sequence[OnDisk]) -> tuple[OnDisk, float] | None:
    """The finest dictionary most of whose regions are worth reading, and their share: ENOUGH members, several words.

    None where none is such, or there is nothing to choose from.
    """
    annotated = [dictionary for dictionary in dictionaries if dictionary.annotated]
    for dictionary in sorted(annotated, key=lambda d: d.config.calibration.percentile) if len(annotated) > 1 else ():
        interest = dictionary.annotation.interest
        share = float(((interest.members >= ENOUGH) & ~interest.single_word).mean())
        if share >= _MOST:
            return dictionary, share
    return None


def shown(dictionary: OnDisk, sort: str = "interest", keep: str = "") -> list[int]:
    """Regions with members in an order, those that a filter keeps.

    Args:
        dictionary: annotated.
        sort: interest or members.
        keep: conditions between commas: `several` (words) and `members>=30`, with any number.

    Raises:
        EPError: another order or condition, or a dictionary that is not annotated.
    """
    interest = dictionary.annotation.interest
    kept_k = interest.members > 0
    for condition in filter(None, (part.strip() for part in keep.split(","))):
        if condition == "several":
            kept_k &= ~interest.single_word
        elif match := re.fullmatch(r"members\s*>=\s*(\d{1,18})", condition):
            kept_k &= interest.members >= int(match[1])
        else:
            raise EPError(f"there is no filter {condition!r}; expected several, or members>= with a number")
    return [int(region) for region in ordered(dictionary, sort) if kept_k[region]]


def _owners(lists: pa.ListArray) -> Int64[np.ndarray, " p"]:
    """The region that each element of a column of lists belongs to."""
    return np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
