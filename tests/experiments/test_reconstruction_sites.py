"""The study of several sites on made-up activations: pieces are done once, and summed up over documents."""

import itertools
import json

import numpy as np
import pytest
import torch
from experiments.studies import reconstruction_sites as sites
from experiments.studies.reconstruction import activations
from safetensors.torch import save_file

from tiny_models import VOCAB, tiny

LAYER, WINDOW, WINDOWS = 3, 20, 400


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Windows of documents of one window each, and activations of two of 60 directions."""
    monkeypatch.setattr(sites, "K", 4)
    monkeypatch.setattr(sites, "KS", (1, 4))
    arrays = {"length": np.full(WINDOWS, WINDOW, np.uint16), "document": np.arange(WINDOWS, dtype=np.uint32)}
    ids = np.arange(WINDOWS * WINDOW, dtype=np.int32)
    np.savez(tmp_path / "tokens.npz", ids=ids, special=np.array([0]), digest=np.array("made up"), **arrays)
    made = sites.Study(tmp_path, "none")
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(60, 40))
    for part in ("test", "validation", "pool"):
        n = len(made.windows.rows(sites.windows_of(made.windows, part)))
        x = sum(rng.uniform(1, 4, size=(n, 1)) * directions[rng.integers(0, 60, size=n)] for _ in range(2))
        save_file({"x": torch.from_numpy(x).bfloat16()}, tmp_path / f"{part}-{LAYER}.safetensors")
    return made


def test_parts_of_the_text_share_no_document(study):
    parts = [set(study.windows.rows(sites.windows_of(study.windows, part))) for part in ("test", "validation", "pool")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == WINDOWS


def test_pieces_are_done_once_and_summed_up_over_documents(study, capsys):
    wanted = [f"{LAYER}-validation", f"{LAYER}-directions-4-1", f"variants-{LAYER}-kept-1"]
    study.run(wanted, 60)
    study.run(wanted, 60)
    assert capsys.readouterr().out.count(" s\n") == 3
    totals = {"layer": LAYER, "sums": study.measure(LAYER, "test").total_w.tolist()}
    rows = [totals | {"baseline": name} for name in ("total", "count", "clean", "zero", "mean")]
    piece = {"digest": "made up", "torch": "", "seconds": 0, "rows": rows}
    (study.dir / "pieces" / f"{LAYER}-baselines.json").write_text(json.dumps(piece))
    found = sites.summary([study.dir])["rows"]
    arms = {row["arm"]: row for row in found if row["percentile"] == 4}
    assert set(arms) == {"exemplars", "means", "random", "k-means"}
    for row in arms.values():
        estimate, low, high = row["fvu"]
        assert 0 < low <= estimate <= high < 1 and "recovered_zero" not in row and row["k"] == 4
        assert row["relative"] == pytest.approx(estimate, rel=0.3)
    assert {row["on"] for row in found if row["percentile"] == 1} == {"test", "validation"}


def test_tokens_after_the_pool_go_on_from_it(study, monkeypatch):
    monkeypatch.setattr(sites, "POOL", 3000)
    monkeypatch.setattr(sites, "MORE", 1000)
    every, taken = [], sites.training_parts(4500)
    assert taken == ["pool", "more0", "more1"]
    (study.dir / "more.npz").write_bytes((study.dir / "tokens.npz").read_bytes())
    for part in taken:
        chosen = sites.windows_of(study.windows, part)
        every += study.windows.rows(chosen).tolist()
        x = torch.from_numpy(np.repeat(chosen, WINDOW)[: len(study.windows.rows(chosen))].astype(np.float32))
        save_file({"x": x[:, None]}, study.dir / f"{part}-{LAYER}.safetensors")
    assert every == sorted(every) and len(every) >= 4500  # as the text has them, none twice
    ordered = study.ordered(LAYER, 1, 4500)[:, 0].tolist()
    documents = list(dict.fromkeys(ordered))
    assert len(ordered) == 4500 and documents != sorted(documents) and set(documents) <= set(every)
    assert len(documents) == 1 + sum(a != b for a, b in itertools.pairwise(ordered))  # whole documents


def test_activations_do_not_depend_on_which_windows_are_run_together(tmp_path):
    lengths = np.array([9, 3, 12, 5, 7])
    ids = np.random.default_rng(0).integers(1, VOCAB, size=lengths.sum()).astype(np.int32)
    arrays = {"length": lengths.astype(np.uint16), "document": np.arange(5, dtype=np.uint32)}
    np.savez(tmp_path / "t.npz", ids=ids, special=np.array([0]), digest=np.array(""), **arrays)
    windows, model = sites.Windows(tmp_path / "t.npz", torch.device("cpu")), tiny("llama")
    together = activations(model, [0, 1], windows, np.array([4, 0, 2, 1, 3]))
    for layer, x_nd in together.items():
        one_by_one = [activations(model, [layer], windows, np.array([b]))[layer] for b in (4, 0, 2, 1, 3)]
        torch.testing.assert_close(x_nd, torch.cat(one_by_one))


def test_a_piece_of_a_process_that_lives_is_left_to_it(study, tmp_path):
    busy = tmp_path / "piece.busy"
    assert sites._claimed(busy) and not sites._claimed(busy)
    busy.write_text("999999999")
    assert sites._claimed(busy)
