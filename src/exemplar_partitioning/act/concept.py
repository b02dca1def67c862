"""A concept from texts that have it and texts that do not: its regions, a detector, a direction with a safe strength.

Half of the texts chooses regions and threshold; the other half, which nothing was chosen by, says how well they do,
beside what the words alone and a probe on mean activations do with the same halves.

Shapes: n tokens of all texts, t texts, r regions, d = d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save as serialise
from torch import Tensor

from ..errors import DataError, EPError
from ..files import new_folder, read_tensors, sealed, unsealed
from ..folder.dictionary import StoredDictionary
from ..folder.labels import Labels
from ..folder.model import check_model
from ..folder.schema import validated
from ..models.capture import Extractor
from ..models.identity import special_token_ids
from ..models.load import bos_id
from ..models.loaded import LoadedModel
from ..models.sites import resolve_sites
from .localise import RegionRate, meets, rates, wilson
from .steer import direction_of, steer

FORMAT = "exemplar-partitioning/concept"
MOST = 8  # regions of a concept
LEVEL = 0.05  # corrected probability up to which a region counts
LEAST = 8  # texts of either kind


@dataclass(frozen=True)
class Detection:
    """How a detector does on held-out texts.

    Attributes:
        auc: chance that a text with the concept scores above one without; one half by guessing.
        misses: share of the texts with it that are not flagged, and its interval (Wilson, 95 %).
        alarms: share of the texts without it that are flagged, and its interval.
    """

    auc: float
    misses: tuple[float, float, float]
    alarms: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Concept:
    """Regions that stand for a concept, and what to do with them.

    Attributes:
        name: what it is called.
        dictionary: content id of the dictionary whose regions they are.
        regions: their numbers.
        threshold: cosine to the nearest of their exemplars from which a token is flagged.
        alpha: the largest step along their direction at which text still reads.
        direction: [d] unit direction of their sum.
        report: rates of the regions, and `Detection` of them, of words and of a probe, on held-out texts.
    """

    name: str
    dictionary: str
    regions: list[int]
    threshold: float
    alpha: float
    direction: Float[Tensor, " d"]
    report: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write a new folder: concept.json and concept.safetensors.

        Args:
            path: the folder; it must not exist.

        Raises:
            EPError: it does.
            ResourceError: it cannot be written.
        """
        record = {"format": FORMAT, **{name: vars(self)[name] for name in _Kept.model_fields}}
        with new_folder(Path(path)) as folder:
            (folder / "concept.json").write_bytes(sealed(record))
            (folder / "concept.safetensors").write_bytes(serialise({"direction": self.direction.contiguous()}))

    @classmethod
    def load(cls, path: str | Path, dictionary: StoredDictionary) -> Concept:
        """A concept of a dictionary, from its folder.

        Args:
            path: its folder.
            dictionary: that it belongs to.

        Returns:
            The concept.

        Raises:
            EPError: it is another dictionary's.
            DataError: it is damaged.
        """
        file = Path(path) / "concept.json"
        value = unsealed(file)
        if value.pop("format", None) != FORMAT:
            raise DataError(f"{path} does not hold a concept of this package")
        kept = validated(_Kept, value, file)
        if kept.dictionary != dictionary.content_id:
            raise EPError(
                f"{path} is a concept of the dictionary {kept.dictionary[:12]}, but {dictionary.path} is "
                f"{dictionary.content_id[:12]}; give its own"
            )
        if not all(0 <= region < dictionary.k for region in kept.regions):
            raise DataError(f"{file} is damaged: a region beyond the {dictionary.k:,} there are")
        given_d = read_tensors(Path(path) / "concept.safetensors", ("direction",), "pt")["direction"]
        direction_d = direction_of(dictionary, kept.regions)
        if given_d.shape != direction_d.shape or not torch.allclose(given_d.float(), direction_d, atol=1e-5):
            raise DataError(f"{path} is damaged: its direction is not that of its regions; find the concept again")
        return cls(**dict(kept), direction=direction_d)

    def scores(self, dictionary: StoredDictionary, x_nd: Any) -> Float64[np.ndarray, " n"]:
        """Cosine of each activation to the nearest of the concept's exemplars.

        Args:
            dictionary: that the concept belongs to.
            x_nd: activations [n, d_model].

        Returns:
            A score a row, at most 1.
        """
        return _nearness(dictionary, self.regions, np.asarray(x_nd))


class _Kept(BaseModel):
    """concept.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    name: str
    dictionary: str
    regions: list[int] = Field(min_length=1)
    threshold: float = Field(ge=-1.1, le=1.1, description="of a cosine")
    alpha: float = Field(ge=0)
    report: dict[str, Any]


def concept(
    dictionary: StoredDictionary, loaded: LoadedModel, positive: Sequence[str], negative: Sequence[str], name: str
) -> Concept:
    """Find a concept's regions, its detector and its step.

    Args:
        dictionary: whose regions.
        loaded: its model.
        positive: texts that have the concept, 8 or more; better 50.
        negative: texts like them that do not.
        name: what to call it.

    Returns:
        The concept; `report` says how well it does on the half of the texts that chose nothing, and
        `report["significant"]` whether any region stood out at all (p < 0.05, corrected for all that were met).

    Raises:
        EPError: too few texts, another model, or none of the texts' tokens in any region.
    """
    check_model(dictionary, loaded)
    if min(len(positive), len(negative)) < LEAST:
        raise EPError(
            f"there are {len(positive)} texts with and {len(negative)} without it; give {LEAST} of each or more"
        )
    texts = [*positive, *negative]
    has_t = np.arange(len(texts)) < len(positive)
    held_t = _half(has_t)
    x_nd, text_n = activations(dictionary, loaded, texts)
    meets_tk = meets(dictionary, torch.from_numpy(x_nd), text_n)
    found = rates(meets_tk[~held_t], has_t[~held_t])
    if not found:
        raise EPError("no token of the texts lies in any region; give longer texts")
    significant = [rate for rate in found if rate.p < LEVEL and rate.lift > 1][:MOST]
    regions = [rate.region for rate in significant or found[:1]]
    score_t = _largest(_nearness(dictionary, regions, x_nd), text_n, len(texts))
    threshold = _threshold(score_t[~held_t], has_t[~held_t])
    direction_d = direction_of(dictionary, regions)
    report = {
        "texts": {"positive": len(positive), "negative": len(negative), "held_out": int(held_t.sum())},
        "significant": bool(significant),
        "regions": [_rate(dictionary, rate) for rate in significant or found[:1]],
        "detection": asdict(_detection(score_t[held_t], has_t[held_t], threshold)),
        "words": asdict(_trained(_words(texts, held_t), has_t, held_t)),
        "probe": asdict(_trained(_means(x_nd, text_n, len(texts)), has_t, held_t)),
    }
    from .fluency import strongest

    alpha = strongest(loaded, lambda each: steer(loaded, dictionary, regions, alpha=each))
    return Concept(name, dictionary.content_id, regions, threshold, alpha, direction_d, report)


def own_tokens(dictionary: StoredDictionary, loaded: LoadedModel, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text's own tokens; what exceeds the context is left out."""
    special, length = special_token_ids(loaded.tokenizer), dictionary.config.text.context_size or 128
    ids = (loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    return [[i for i in each if i not in special][:length] for each in ids]


def activations(
    dictionary: StoredDictionary, loaded: LoadedModel, texts: Sequence[str]
) -> tuple[Float[np.ndarray, "n d"], Int64[np.ndarray, " n"]]:
    """Activations of the texts' own tokens, and which text each is of; what exceeds the context is left out."""
    prefix = [bos_id(loaded)] if dictionary.config.text.prepend_bos else []
    windows = []
    for text, ids in zip(texts, own_tokens(dictionary, loaded, texts), strict=True):
        if not ids:
            raise EPError(f"a text has no tokens: {text[:40]!r}; leave it out")
        windows.append(np.array([*prefix, *ids]))
    (site,) = resolve_sites(dictionary.config.site.name, loaded.architecture)
    x_nd = Extractor(loaded.model, [site]).extract(windows)[site].numpy()
    own_n = np.concatenate([np.arange(len(window)) >= len(prefix) for window in windows])
    text_n = np.repeat(np.arange(len(texts)), [len(window) for window in windows])
    return x_nd[own_n], text_n[own_n]


def _half(has_t: Bool[np.ndarray, " t"]) -> Bool[np.ndarray, " t"]:
    """Half of the texts of either kind, drawn with a fixed seed."""
    held_t, rng = np.zeros(len(has_t), bool), np.random.default_rng(0)
    for kind in (True, False):
        held_t[rng.permutation(np.flatnonzero(has_t == kind))[: int((has_t == kind).sum()) // 2]] = True
    return held_t


def _nearness(dictionary: StoredDictionary, regions: Sequence[int], x_nd: np.ndarray) -> Float64[np.ndarray, " n"]:
    u_nd = x_nd.astype(np.float64) - dictionary.center.double().numpy()
    u_nd /= np.maximum(np.linalg.norm(u_nd, axis=1, keepdims=True), 1e-12)
    return (u_nd @ dictionary.exemplars[list(regions)].double().numpy().T).max(axis=1)


def _largest(score_n: np.ndarray, text_n: np.ndarray, texts: int) -> Float64[np.ndarray, " t"]:
    score_t = np.full(texts, -1.0)
    np.maximum.at(score_t, text_n, score_n)
    return score_t


def _threshold(score_t: np.ndarray, has_t: np.ndarray) -> float:
    """Half way between two scores, where misses and false alarms together are fewest."""
    ends = np.unique(score_t)
    middles = np.concatenate([[ends[0] - 1e-6], (ends[1:] + ends[:-1]) / 2, [ends[-1] + 1e-6]])
    wrong = [(score_t[has_t] < each).mean() + (score_t[~has_t] >= each).mean() for each in middles]
    return float(middles[int(np.argmin(wrong))])


def _detection(score_t: np.ndarray, has_t: np.ndarray, threshold: float) -> Detection:
    from sklearn.metrics import roc_auc_score

    missed, alarmed = score_t[has_t] < threshold, score_t[~has_t] >= threshold
    return Detection(float(roc_auc_score(has_t, score_t)), _share(missed), _share(alarmed))


def _share(wrong: np.ndarray) -> tuple[float, float, float]:
    low, high = wilson(np.array([wrong.sum()]), np.array([len(wrong)]))
    return float(wrong.mean()), float(low[0]), float(high[0])


def _trained(features_tf: Any, has_t: np.ndarray, held_t: np.ndarray) -> Detection:
    """A logistic regression on one half, judged on the other."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=2000, class_weight="balanced").fit(features_tf[~held_t], has_t[~held_t])
    return _detection(model.decision_function(features_tf[held_t]), has_t[held_t], 0.0)


def _words(texts: Sequence[str], held_t: np.ndarray) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+")
    vectorizer.fit([text for text, held in zip(texts, held_t, strict=True) if not held])
    return vectorizer.transform(texts)


def _means(x_nd: np.ndarray, text_n: np.ndarray, texts: int) -> Float64[np.ndarray, "t d"]:
    """Mean activation of each text, each coordinate of unit variance."""
    sums_td = np.zeros((texts, x_nd.shape[1]))
    np.add.at(sums_td, text_n, x_nd.astype(np.float64))
    means_td = sums_td / np.bincount(text_n, minlength=texts)[:, None]
    return (means_td - means_td.mean(axis=0)) / np.maximum(means_td.std(axis=0), 1e-9)


def _rate(dictionary: StoredDictionary, rate: RegionRate) -> dict[str, Any]:
    return asdict(rate) | {"label": Labels.read(dictionary).best(rate.region).text}
