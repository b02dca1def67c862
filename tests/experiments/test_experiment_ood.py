"""The experiment on text unlike a dictionary's: metrics and rivals by other means, and the whole on a tiny model."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

import exemplar_partitioning as ep
from conftest import sentences
from ep_experiments.ood import methods as ood_methods
from ep_experiments.ood import tasks as ood_tasks
from ep_experiments.ood.methods import mahalanobis, nearest, norm, pca_residual
from ep_experiments.ood.metrics import fpr95, separation
from ep_experiments.ood.plots import ood_figure
from ep_experiments.ood.separate import losses
from ep_experiments.ood.tasks import CLINC, CODE, LANGUAGES, PROSE, Sizes, suites
from ep_experiments.paired import resampled_by_kind, spread
from exemplar_partitioning.cli import main
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.show.figures import to_bytes


def scores(seed, ties):
    rng = np.random.default_rng(seed)
    score_n = np.r_[rng.normal(0.7, 1, 80), rng.normal(0, 1, 120)]
    return (score_n.round() if ties else score_n), np.arange(200) < 80


class TestMetrics:
    @pytest.mark.parametrize("ties", [False, True])
    def test_against_scikit_learn(self, ties):
        score_n, novel_n = scores(0, ties)
        weight_bn = np.random.default_rng(1).integers(1, 4, size=(3, 200))
        weight_bn[0] = 1
        found, auroc_b = separation(score_n, novel_n, weight_bn)
        for weight_n, auroc, fpr in zip(weight_bn, auroc_b, fpr95(score_n, novel_n, weight_bn), strict=True):
            assert auroc == pytest.approx(roc_auc_score(novel_n, score_n, sample_weight=weight_n))
            false, true, _ = roc_curve(novel_n, score_n, sample_weight=weight_n, drop_intermediate=False)
            assert fpr == pytest.approx(false[true >= 0.95 - 1e-9].min())
        assert found["auroc"][0] == pytest.approx(roc_auc_score(novel_n, score_n), abs=1e-4)

    def test_fpr95_by_hand(self):
        novel = np.r_[np.ones(20), np.zeros(4)].astype(bool)
        score = np.r_[np.arange(1, 21), [0.5, 1.5, 2.0, 30]]
        ones = np.ones((1, 24), np.int64)
        assert fpr95(score, novel, ones)[0] == 2 / 4  # 19 of 20 reach 2, and so do two of four ordinary ones

    def test_documents_are_drawn_within_their_kind(self):
        novel_t = np.arange(10) < 3
        weight_bt = resampled_by_kind(novel_t, 50, seed=0)
        assert weight_bt.shape == (51, 10) and (weight_bt[0] == 1).all()
        assert (weight_bt[:, novel_t].sum(axis=1) == 3).all() and (weight_bt.sum(axis=1) == 10).all()
        assert spread(np.r_[5.0, np.arange(101.0)]) == [5, 2.5, 97.5]


class TestMethods:
    x_md = np.random.default_rng(0).standard_normal((500, 12)).astype(np.float32) * np.arange(1, 13, dtype=np.float32)
    x_nd = np.random.default_rng(1).standard_normal((40, 12)).astype(np.float32) * 5

    def test_mahalanobis(self):
        exact = np.sqrt(LedoitWolf().fit(self.x_md.astype(float)).mahalanobis(self.x_nd.astype(float)))
        np.testing.assert_allclose(mahalanobis(self.x_md).scores(self.x_nd)[0], exact, rtol=1e-4)

    def test_nearest(self, monkeypatch):
        monkeypatch.setattr(ood_methods, "TILE", 64)
        center_d = torch.linspace(-1, 1, 12)
        other = NearestNeighbors(n_neighbors=10, metric="cosine").fit(self.x_md - center_d.numpy())
        exact = other.kneighbors(self.x_nd - center_d.numpy())[0]
        method = nearest({"first": 1, "tenth": 10}, self.x_md, center_d)
        np.testing.assert_allclose(method.scores(self.x_nd), exact[:, [0, 9]].T, atol=1e-5)
        assert method.names == ("first", "tenth") and method.bytes == self.x_md.nbytes

    def test_pca_residual(self):
        u_md = self.x_md - self.x_md.mean(axis=0)
        u_md /= np.linalg.norm(u_md, axis=1, keepdims=True)
        _, s, v_dd = np.linalg.svd(u_md, full_matrices=False)
        kept = int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), 0.95)) + 1
        u_nd = self.x_nd - self.x_md.mean(axis=0)
        u_nd /= np.linalg.norm(u_nd, axis=1, keepdims=True)
        np.testing.assert_allclose(
            pca_residual(self.x_md).scores(self.x_nd)[0], ((u_nd @ v_dd[kept:].T) ** 2).sum(axis=1), atol=1e-4
        )

    def test_norm(self):
        median = np.median(np.linalg.norm(self.x_md, axis=1))
        x_nd = np.zeros((3, 12), np.float32)
        x_nd[:, 0] = median * np.array([1, 2, 0.5])
        np.testing.assert_allclose(norm(self.x_md).scores(x_nd)[0], [0, np.log(2), np.log(2)], atol=1e-6)


def test_losses_are_the_models_own(tiny_folder):
    loaded = ep.load_model(str(tiny_folder))
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 300, size=n).astype(np.int32) for n in (5, 17, 9)]
    for ids, found in zip(documents, losses(loaded, documents), strict=True):
        whole = torch.from_numpy(np.r_[0, ids].astype(np.int64))[None]
        with torch.inference_mode():
            exact = loaded.model(whole, labels=whole).loss
        assert len(found) == len(ids) and found.mean() == pytest.approx(float(exact), rel=1e-5)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder as `--data` has it, without math and chat: prose is sentences, code and languages are characters."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def strange(count, first):
        return ["".join(chr(c) for c in rng.integers(first, first + 60, size=80)) for _ in range(count)]

    prose = sentences(900, seed=1)
    write(folder / PROSE, [{"source": "a", "id": f"{i // 3}#{i}", "text": text} for i, text in enumerate(prose)])
    write(folder / CODE, [{"text": text} for text in strange(60, 40)])
    english = [{"lang": "English", "text": text} for text in sentences(40, seed=2)]
    write(folder / LANGUAGES, english + [{"lang": "Greek", "text": text} for text in strange(60, 900)])
    oos = [{"label": "oos", "text": text} for text in strange(90, 40)]
    write(folder / CLINC, oos + [{"label": "greet", "text": text} for text in sentences(1500, seed=4)])
    return folder


class TestTasks:
    def test_parts_share_no_source_document(self, data, tiny_folder):
        loaded, said = ep.load_model(str(tiny_folder)), []
        (suite,) = suites(["prose"], data, loaded, Sizes(40_000, 140, 24), 0, said.append)
        of = {text: i // 3 for i, text in enumerate(sentences(900, seed=1))}
        parts = [{of[text] for text in part} for part in (suite.build, suite.fit, suite.held_out)]
        # a group may be cut off at the end of a part, but is then in that part only
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert [len(suite.fit), len(suite.held_out)] == [140, 72]
        assert sum(map(len, suite.build)) <= 40_000
        names = [task.name for task in suite.tasks]
        assert names == ["code", "other languages", "shuffled words", "random tokens", "control: the same"]
        assert any("math" in line for line in said) and any("novels" in line for line in said)
        control = suite.tasks[-1].novel
        assert not set(control) & set(suite.held_out[:24]) and set(control) <= set(suite.held_out)

    def test_same_seed_same_texts(self, data, tiny_folder):
        loaded = ep.load_model(str(tiny_folder))
        a, b, c = (suites(["clinc"], data, loaded, Sizes(20_000, 140, 24), seed, print)[0] for seed in (0, 0, 1))
        assert a == b and a != c

    def test_no_text(self, tmp_path, tiny_folder):
        loaded = ep.load_model(str(tiny_folder))
        with pytest.raises(EPError, match="no text for any of prose, clinc"):
            suites(["prose", "clinc"], tmp_path, loaded, Sizes(), 0, lambda _: None)
        with pytest.raises(EPError, match="no suite 'poems'"):
            suites(["poems"], tmp_path, loaded, Sizes(), 0, lambda _: None)
        write(tmp_path / CLINC, [{"label": "oos", "text": "a"}, {"label": "greet"}])
        with pytest.raises(DataError, match="line 2: expected an object with a text"):
            suites(["clinc"], tmp_path, loaded, Sizes(), 0, lambda _: None)
        write(tmp_path / CLINC, [{"label": "oos", "text": "a"}, {"label": "greet", "text": "b"}])
        with pytest.raises(EPError, match="suite clinc: 1 documents are too few"):
            suites(["clinc"], tmp_path, loaded, Sizes(), 0, lambda _: None)

    def test_texts_are_cut_at_words(self):
        text = "word " * 300
        assert len(ood_tasks._beginning(text)) <= ood_tasks.CHARACTERS and ood_tasks._beginning(text).endswith("word")
        assert ood_tasks._beginning("x" * 1000) == "x" * ood_tasks.CHARACTERS


def test_the_whole_on_a_tiny_model(data, tiny_folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = ["--model", tiny_folder, "--site", "resid_post.1", "--percentile", "4,8", "--data", data, "--quick"]
    arguments += ["--suite", "prose,clinc", "--out", out, "--json"]
    monkeypatch.setattr(sys, "argv", ["ep", "experiment", "ood", *map(str, arguments)])
    with pytest.raises(SystemExit, match="0"):
        main()
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((out / "result.json").read_bytes())
    assert [suite["name"] for suite in result["suites"]] == ["prose", "clinc"]
    for suite in result["suites"]:
        first = "surprise, p = 4"
        stored = suite["methods"]["k-NN, k = 1"]["bytes"]
        assert stored == suite["stored"]["bytes"] > 4 * suite["methods"][first]["bytes"]
        tasks = {task["name"]: task["methods"] for task in suite["tasks"]}
        for name, found in tasks.items():
            assert set(found) == set(suite["methods"])
            for method in found.values():
                for level in ("token", "document"):
                    value, low, high = method[level]["auroc"]
                    assert 0 <= low <= value + 0.02 and value - 0.02 <= high <= 1
            if name.startswith("control"):
                assert abs(found[first]["document"]["auroc"][0] - 0.5) < 0.25
        assert tasks["random tokens"][first]["document"]["auroc"][0] > 0.9
        (fitted,) = suite["detector"]
        assert fitted["flagged"]["held out"]["flagged"] / fitted["flagged"]["held out"]["documents"] < 0.2
        assert fitted["flagged"]["random tokens"]["flagged"] > 0.5 * fitted["flagged"]["random tokens"]["documents"]

    spec = importlib.util.spec_from_file_location("ood_page", Path(__file__).parents[2] / "tools" / "ood_page.py")
    assert spec and spec.loader
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert "**surprise, p = 4**" in page._part(result, "tiny") and "new ordinary text" in page._part(result, "tiny")
    assert to_bytes(ood_figure(result), "svg") == to_bytes(ood_figure(result), "svg")
