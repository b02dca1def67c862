"""Dictionaries in a row, of checkpoints, models or layers: which regions persist from each to the next, and how long.

Shapes: k regions of a dictionary, l of the next one, d = d_model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from ..core.nearest import nearest
from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..folder.origin import describe
from .matching import FALSE_ALARMS, check
from .nulls import Null, reflections


@dataclass(frozen=True, eq=False)
class Step:
    """From one dictionary to the next, by the cosine of their exemplars, each around its own centre.

    Attributes:
        cosine_k: of each region of the first with its nearest of the next.
        nearest_l: for each region of the next, its nearest of the first; cosine_l with that.
        null: what best matches are like without correspondence (compare/nulls.py).
        false_alarms: share of such matches that would be called persisted.
    """

    cosine_k: Float64[np.ndarray, " k"]
    nearest_l: Int64[np.ndarray, " l"]
    cosine_l: Float64[np.ndarray, " l"]
    null: Null
    false_alarms: float

    @cached_property
    def persisted_k(self) -> Bool[np.ndarray, " k"]:
        """Regions of the first that are found in the next."""
        return self.cosine_k > self.null.cutoffs(self.false_alarms)[0]

    @cached_property
    def continues_l(self) -> Bool[np.ndarray, " l"]:
        """Regions of the next that are found in the first; the others are introduced."""
        return self.cosine_l > self.null.cutoffs(self.false_alarms)[1]


@dataclass(frozen=True, eq=False)
class Row:
    """Dictionaries of the same width in a row.

    Attributes:
        names: of the dictionaries, for people.
        steps: from each dictionary to the next.
    """

    dictionaries: Sequence[StoredDictionary]
    names: Sequence[str]
    steps: Sequence[Step]

    @cached_property
    def begins(self) -> list[Int64[np.ndarray, " k"]]:
        """For each dictionary, where in the row the line of each region begins: each continues its nearest before."""
        begins = [np.zeros(self.dictionaries[0].k, np.int64)]
        for number, step in enumerate(self.steps, 1):
            begins.append(np.where(step.continues_l, begins[-1][step.nearest_l], number))
        return begins

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary a row, with what became of the one before it; None where there is none before."""
        return [self._row(number) for number in range(len(self.dictionaries))]

    def _row(self, number: int) -> dict[str, Any]:
        of: dict[str, Any] = {"name": self.names[number], "regions": self.dictionaries[number].k}
        before = self.steps[number - 1] if number else None
        compared: dict[str, Any] = dict.fromkeys(
            ("persisted", "by_chance", "dropped", "introduced", "cosine", "cosine_null", "cutoff")
        )
        if before is not None:
            compared = {
                "persisted": int(before.persisted_k.sum()),
                "by_chance": before.false_alarms * len(before.persisted_k),
                "dropped": int((~before.persisted_k).sum()),
                "introduced": int((~before.continues_l).sum()),
                "cosine": float(np.median(before.cosine_k)),
                "cosine_null": float(np.median(before.null.to_b)),
                "cutoff": before.null.cutoffs(before.false_alarms)[0],
            }
        counts = np.bincount(self.begins[number], minlength=number + 1)
        return of | compared | {"begun": counts.tolist()}

    def table(self) -> pa.Table:
        """`rows` as a table; of where lines begin, how many begin in the first dictionary."""
        return pa.Table.from_pylist([row | {"since_first": row.pop("begun")[0]} for row in self.rows()])

    def summary(self) -> dict[str, Any]:
        """Plain values: which dictionaries, and `rows`."""
        return {
            "dictionaries": [describe(dictionary) for dictionary in self.dictionaries],
            "null": self.steps[0].null.name,
            "false_alarms": self.steps[0].false_alarms,
            "rows": self.rows(),
        }

    def __repr__(self) -> str:
        carried = (self.begins[-1] == 0).mean()
        return f"Row({', '.join(self.names)}: {carried:.1%} of the last one's regions go back to the first)"


def row(
    dictionaries: Sequence[StoredDictionary], names: Sequence[str] = (), *, false_alarms: float = FALSE_ALARMS
) -> Row:
    """Follow regions through dictionaries in a row, each matched with the next by its exemplars.

    Args:
        dictionaries: Two or more of the same width, in order: checkpoints, models that share a base, layers.
        names: Of them, for people; by default what tells them apart: folders, else sites.
        false_alarms: Share of matches without correspondence that may be called persisted.

    Returns:
        The row: from each to the next what persists, is dropped and introduced, beside its null.

    Raises:
        EPError: fewer than two, one without regions, or several widths.
    """
    if len(dictionaries) < 2:
        raise EPError(f"a row has two dictionaries or more; got {len(dictionaries)}")
    steps = []
    for a, b in itertools.pairwise(dictionaries):
        check(a, b, "exemplar", false_alarms)
        a_kd, b_ld = a.exemplars.numpy(), b.exemplars.numpy()
        cosine_k = nearest(a_kd, b_ld)[1]
        steps.append(Step(cosine_k, *nearest(b_ld, a_kd), reflections(a_kd, b_ld), false_alarms))
    return Row(tuple(dictionaries), tuple(names) or _names(dictionaries), steps)


def _names(dictionaries: Sequence[StoredDictionary]) -> tuple[str, ...]:
    sites = [dictionary.config.site.name for dictionary in dictionaries]
    if len(set(sites)) == len(sites):
        return tuple(sites)
    folders = [dictionary.path.absolute() for dictionary in dictionaries]
    depth = next((n for n in range(1, 4) if len({path.parts[-n] for path in folders}) == len(folders)), 3)
    return tuple(path.parts[-depth] for path in folders)
