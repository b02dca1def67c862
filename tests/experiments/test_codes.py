"""Statistics of the studies of codes, on codes whose answers are plain."""

import numpy as np
import pytest
import torch
from experiments.studies import first_letters, sparse_probes

from exemplar_partitioning.core.dictionary import Dictionary


def test_a_letter_in_two_features_is_split_and_what_neither_takes_is_absorbed():
    letter = np.array(list("aaaaaaaaaabbbbbbbbbb") * 2)
    letters = first_letters.Letters(letter, np.arange(40) < 20)
    active = np.zeros((40, 4), bool)
    for half in (0, 20):
        active[half : half + 5, 0] = active[half + 5 : half + 8, 1] = True  # of two a's in ten there is no feature
        active[half + 8 : half + 10, 2] = active[half + 10 : half + 20, 2] = True  # these lie in that of b
    row = first_letters.told(letters, "a", active, letter == "a")
    assert row["chosen"] == [0, 1]
    assert row["main"] == pytest.approx(2 * 5 / 15) and row["union"] == pytest.approx(2 * 8 / 18)
    assert row["absorbed"] == pytest.approx(0.2)
    known = letter == "a"
    known[28:30] = False  # those are not known to be of it
    assert first_letters.told(letters, "a", active, known)["absorbed"] == 0


def test_regions_of_a_letter_lie_in_one_coarser_region():
    coarse = Dictionary(torch.zeros(3), torch.eye(3)[:2], 1.0)
    fine = torch.tensor([[1.0, 0.1, 0], [1.0, -0.1, 0.1], [0.1, 1.0, 0], [0, 1.0, 0.1]])
    fine = Dictionary(torch.zeros(3), torch.nn.functional.normalize(fine, dim=1), 1.0)
    shares = first_letters.kin({"a": [0, 1], "b": [2, 3]}, fine, coarse)
    assert shares == {
        "same letter": {"pairs": 2, "share a parent": 1.0},
        "other letters": {"pairs": 4, "share a parent": 0.0},
    }


def test_what_reseeding_does_is_told_from_what_arms_do():
    rows = [
        {"task": f"t{task}", "arm": arm, "draw": draw, "k": 1, "auroc": 0.6 + 0.01 * task + shift + 0.02 * draw}
        for task in range(8)
        for arm, draws, shift in (("exemplars", 3, 0.0), ("better", 1, 0.1))
        for draw in range(draws)
    ]
    exemplars, better = sparse_probes.summary(rows)
    assert exemplars["noise"] == pytest.approx(0.02) and "exemplars_ahead_by" not in exemplars
    assert exemplars["detectable"] == pytest.approx(1.96 * 2**0.5 * 0.02, abs=1e-4)
    apart = better["exemplars_ahead_by"]
    assert apart["difference"] == pytest.approx(-0.08) and apart["high"] < 0 and "noise" not in better
