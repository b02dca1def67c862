"""Matchings and trees, read from the user's cache where they were computed before.

Both follow from exemplars and their thresholds alone, which a dictionary's content id stands for.
"""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np

from ...compare.matching import Matching, check, match
from ...compare.neighbours import Pairs
from ...compare.nulls import Null
from ...compare.progress import Tell
from ...compare.tree import Tree, tree
from ...files import to_json
from ...folder.dictionary import StoredDictionary
from ..kept import Arrays, kept

_VERSION = 1  # of the arrays: those of another one are not read


def matching(a: StoredDictionary, b: StoredDictionary, false_alarms: float, tell: Tell) -> Matching:
    """The library's `match` of exemplars. Raises EPError as that does, for another width first of all."""
    check(a, b, "exemplar", false_alarms)

    def compute() -> Arrays:
        m = match(a, b, tell=tell)
        found = {"nearest_k": m.nearest_k, "cosine_k": m.cosine_k, "nearest_l": m.nearest_l, "cosine_l": m.cosine_l}
        pairs = {f"pairs_{name}": np.asarray(value) for name, value in vars(m.pairs).items()}
        return found | pairs | {"null_to_b": m.null.to_b, "null_to_a": m.null.to_a}

    arrays = kept(f"matches/{a.content_id[:32]}-{b.content_id[:32]}-{_VERSION}", compute)
    null = Null("reflections", arrays["null_to_b"], arrays["null_to_a"])
    row_p, column_p, cosine_p, total, bound = (arrays[f"pairs_{field.name}"] for field in fields(Pairs))
    return Matching(
        a=a,
        b=b,
        basis="exemplar",
        regions_a=np.arange(a.k),
        regions_b=np.arange(b.k),
        nearest_k=arrays["nearest_k"],
        cosine_k=arrays["cosine_k"],
        nearest_l=arrays["nearest_l"],
        cosine_l=arrays["cosine_l"],
        pairs=Pairs(row_p, column_p, cosine_p, float(total), float(bound)),
        nulls=[null],
        null=null,
        false_alarms=false_alarms,
    )


def grown(levels: list[StoredDictionary], tell: Tell) -> tuple[Tree, list[dict]]:
    """The tree of a site's dictionaries, given from coarse to fine, and its summary.

    Raises EPError, as `compare.tree` does, for fewer than two or different centres.
    """

    def compute() -> Arrays:
        made = tree(levels, tell=tell)
        parents = {f"parent_{i}": parent for i, parent in enumerate(made.parent)}
        same = {f"identity_{i}": identity for i, identity in enumerate(made.identity)}
        return parents | same | {"summary": np.frombuffer(to_json(made.summary()), np.uint8)}

    name = "-".join([*(level.content_id[:16] for level in levels), str(_VERSION)])
    arrays = kept(f"trees/{name}", compute)
    parent, identity = ([arrays[f"{name}_{i}"] for i in range(len(levels) - 1)] for name in ("parent", "identity"))
    return Tree(levels, parent, identity), json.loads(arrays["summary"].tobytes())
