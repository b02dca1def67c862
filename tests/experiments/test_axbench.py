"""Concept detection: files read, features pooled and rules checked by the slow way, a planted concept end to end."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import exemplar_partitioning as ep
from conftest import WORDS, sentences
from ep_experiments import nulls
from ep_experiments.activations import TextActivations
from ep_experiments.axbench import baselines, readouts
from ep_experiments.axbench import detect as axbench
from ep_experiments.axbench import pooled as axbench_pooled
from ep_experiments.axbench import site as axbench_site
from ep_experiments.axbench.columns import DualRidge, of_table
from ep_experiments.axbench.plots import axbench_figure
from ep_experiments.axbench.readouts import Examples, Pooled, auroc, pool
from ep_experiments.concepts import Concept, first_concepts, read_concepts
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.text.documents import DocumentSource, read_documents

PLAIN = [word for word in WORDS if word not in ("king", "stone", "river")]
EMPTY = "EEEEE"


def answer(rng, *planted):
    words = [*rng.choice(PLAIN, int(rng.integers(4, 12))), *planted]
    return " ".join(words[i] for i in rng.permutation(len(words)))


def row(rng, category, concept_id, concept, genre, *planted):
    return {
        "input": answer(rng),
        "output": answer(rng, *planted),
        "output_concept": concept,
        "concept_genre": genre,
        "category": category,
        "dataset_category": "instruction",
        "concept_id": concept_id,
    }


def planted_rows(train=16, evaluation=10, hard=3):
    """Two concepts, each a word; negatives of two genres; hard negatives hold another word of neither."""
    rng = np.random.default_rng(0)
    words = ["king", "stone"]
    training = [row(rng, "negative", -1, EMPTY, genre) for genre in ("text", "code") for _ in range(train)]
    training += [row(rng, "positive", c, w, "text", w) for c, w in enumerate(words) for _ in range(train)]
    other = []
    for c, w in enumerate(words):
        other += [row(rng, "positive", c, w, "text", w) for _ in range(evaluation)]
        other += [row(rng, "negative", c, w, genre) for genre in ("text", "code") for _ in range(evaluation // 2)]
        other += [row(rng, "hard negative", c, f"{w}//other", "text", "river") for _ in range(hard)]
    return training, other


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture(scope="module")
def stem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("axbench")
    training, evaluation = planted_rows()
    write(folder / "words_train.jsonl.gz", training)
    write(folder / "words_eval.jsonl.gz", evaluation)
    return folder / "words"


class TestReading:
    def test_texts_go_to_their_concepts(self, stem):
        given = read_concepts(stem)
        training, evaluation = planted_rows()
        rows = training + evaluation
        assert given.name == "words" and given.repeated == 0
        assert given.texts == [f"{r['input']}\n{r['output']}" for r in rows]
        for number, (concept, word) in enumerate(zip(given.concepts, ["king", "stone"], strict=True)):
            assert (concept.name, concept.genre) == (word, "text")
            assert {rows[i]["category"] for i in concept.negative} == {"negative"}
            assert {rows[i]["concept_genre"] for i in concept.negative} == {"text"}  # of its own genre only
            assert all(i < len(training) for i in (*concept.positive, *concept.negative, *concept.others))
            assert {rows[i]["concept_id"] for i in concept.positive} == {number}
            assert {rows[i]["concept_id"] for i in concept.others} == {1 - number}
            sizes = [len(concept.eval_positive), len(concept.eval_negative), len(concept.eval_hard)]
            assert sizes == [10, 10, 3]
            for name in ("eval_positive", "eval_negative", "eval_hard"):
                assert {rows[i]["category"] for i in getattr(concept, name)} == {
                    name[5:].replace("hard", "hard negative")
                }

    def test_axbench_own_layout_is_the_same(self, stem, tmp_path):
        training, evaluation = planted_rows()
        write(tmp_path / "words/generate/train_data.parquet", training)
        write(tmp_path / "words/inference/latent_eval_data.parquet", evaluation)
        one, other = read_concepts(tmp_path / "words"), read_concepts(stem)
        assert one.texts == other.texts
        for a, b in zip(one.concepts, other.concepts, strict=True):
            assert all(np.array_equal(vars(a)[name], vars(b)[name]) for name in vars(a))

    def test_training_texts_are_not_evaluated(self, tmp_path):
        training, evaluation = planted_rows()
        write(tmp_path / "words_train.jsonl", training)
        write(tmp_path / "words_eval.jsonl", [*evaluation, training[-1] | {"concept_id": 1}])
        given = read_concepts(tmp_path / "words")
        assert given.repeated == 1 and len(given.texts) == len(training) + len(evaluation)

    def test_first_concepts_keep_their_texts(self, stem):
        given = read_concepts(stem)
        (small,) = first_concepts(given, 1).concepts
        kept = first_concepts(given, 1).texts
        assert len(kept) < len(given.texts)
        for name in ("positive", "negative", "eval_positive", "eval_negative", "eval_hard"):
            whole = getattr(given.concepts[0], name)
            assert [kept[i] for i in getattr(small, name)] == [given.texts[i] for i in whole]

    def test_what_is_refused(self, tmp_path):
        training, evaluation = planted_rows()
        with pytest.raises(EPError, match=r"no concepts at .*: expected a folder with generate/train_data.parquet"):
            read_concepts(tmp_path / "words")
        write(tmp_path / "words_train.jsonl", training)
        with pytest.raises(
            EPError, match=r"has training texts .* and no evaluation texts; expected .*words_eval.jsonl"
        ):
            read_concepts(tmp_path / "words")
        write(tmp_path / "words_eval.jsonl", [r for r in evaluation if r["category"] != "negative"])
        with pytest.raises(EPError, match=r"concept 0 of words \('king', genre text\) has 0 negative evaluation texts"):
            read_concepts(tmp_path / "words")
        write(tmp_path / "words_eval.jsonl", evaluation)
        write(tmp_path / "words_train.jsonl", [r for r in training if r["category"] != "negative"])
        with pytest.raises(EPError, match="has 0 negative training texts; expected at least 4"):
            read_concepts(tmp_path / "words")
        write(tmp_path / "words_train.jsonl", [r for r in training if r["category"] == "negative"])
        with pytest.raises(EPError, match="names no concept"):
            read_concepts(tmp_path / "words")
        write(tmp_path / "words_train.jsonl", [{k: r[k] for k in r if k != "category"} for r in training])
        with pytest.raises(DataError, match="lacks category in some row; expected the columns input, output"):
            read_concepts(tmp_path / "words")
        (tmp_path / "words_train.jsonl").write_text("{")
        with pytest.raises(DataError, match="cannot be read"):
            read_concepts(tmp_path / "words")
        (tmp_path / "words_train.jsonl").write_text("")
        with pytest.raises(DataError, match="has no rows"):
            read_concepts(tmp_path / "words")


def slow_auroc(score_n, positive_n):
    pairs = [(a, b) for a in score_n[positive_n] for b in score_n[~positive_n]]
    return np.mean([(a > b) + (a == b) / 2 for a, b in pairs])


def random_pooled(rng, texts=24, columns=40):
    """Features with ties, and texts of which half have a concept that a few columns know of."""
    positive_n = np.arange(texts) % 2 == 0
    highest = rng.normal(size=(texts, columns)).round(1).astype(np.float32)
    highest[positive_n, :6] += np.linspace(2, 0.5, 6, dtype=np.float32)
    highest[:, 7] = 3  # the same for all
    mean = rng.normal(size=(texts, columns)).astype(np.float32)
    return Pooled(highest, mean, np.exp(highest), rng.integers(1, 9, texts)), positive_n


class TestReadouts:
    def test_auroc_is_the_share_of_pairs_in_order(self):
        train, positive_n = random_pooled(np.random.default_rng(1))
        found = auroc(train.highest, positive_n)
        for k in range(train.highest.shape[1]):
            assert found[k] == pytest.approx(slow_auroc(train.highest[:, k], positive_n))
        assert np.isnan(auroc(train.highest, positive_n | True)).all()

    def test_pooling_is_over_the_tokens_of_each_text(self, monkeypatch):
        monkeypatch.setattr(readouts, "TOKENS_AT_ONCE", 7)
        rng = np.random.default_rng(2)
        lengths = np.array([3, 0, 12, 1, 0, 5, 7, 7, 1])
        start_t = np.cumsum([0, *lengths])
        x_nd = rng.normal(size=(lengths.sum(), 5)).astype(np.float32)
        acts = TextActivations(x_nd, np.zeros(len(x_nd), np.int32), start_t)
        seen = []

        def encode(x):
            seen.append(len(x))
            return x * torch.arange(1, 6)

        found = pool(acts, encode)
        for t, (first, last) in enumerate(pairwise(start_t)):
            own = x_nd[first:last] * np.arange(1, 6)
            expected = (own.max(axis=0), own.mean(axis=0)) if len(own) else (np.zeros(5), np.zeros(5))
            assert np.allclose(found.highest[t], expected[0], atol=1e-6)
            assert np.allclose(found.mean[t], expected[1], atol=1e-6)
            share = np.maximum(own, 0).mean(axis=0) if len(own) else np.zeros(5)
            assert np.allclose(found.profile[t], np.sqrt(share), atol=1e-6)
        assert np.array_equal(found.tokens, lengths) and max(seen) <= 12

    def test_contrast_is_the_difference_over_tokens(self):
        train, positive_n = random_pooled(np.random.default_rng(3))
        sums = {kind: [] for kind in (True, False)}
        for t in range(len(train.tokens)):
            sums[bool(positive_n[t])] += [train.mean[t]] * int(train.tokens[t])
        expected = np.mean(sums[True], axis=0) - np.mean(sums[False], axis=0)
        assert readouts.contrast(Examples(train, positive_n)).columns == [expected.argmax()]

    def test_best_and_several(self):
        train, positive_n = random_pooled(np.random.default_rng(4))
        areas = [slow_auroc(column, positive_n) for column in train.highest.T]
        assert areas[int(readouts.best(Examples(train, positive_n)).columns[0])] == max(areas)
        few = readouts.several(5)(Examples(train, positive_n))
        assert sorted(np.array(areas)[few.columns])[::-1] == sorted(areas)[::-1][:5]
        score_n = few.score(train)
        z = [train.highest[:, k] / train.highest[:, k].std() for k in few.columns]
        assert np.allclose(score_n, np.sum(z, axis=0), atol=1e-4)

    def test_profile_is_a_shrunken_difference(self):
        train, positive_n = random_pooled(np.random.default_rng(10))
        found = readouts.profile(Examples(train, positive_n))
        steps = []
        for of_k in train.profile.T.astype(float):
            gap = of_k[positive_n].mean() - of_k[~positive_n].mean()
            steps.append(gap / of_k.std() if of_k.std() else 0.0)
        *_, eleventh = sorted(steps)[::-1][:11]
        expected = {k: (steps[k] - eleventh) / train.profile[:, k].astype(float).std() for k in np.argsort(steps)[-10:]}
        assert eleventh > 0 and found.of == "profile"
        assert dict(zip(found.columns, found.weight, strict=True)) == pytest.approx(expected)

    def test_ridge_is_weighted_ridge_regression(self):
        from sklearn.linear_model import Ridge

        train, positive_n = random_pooled(np.random.default_rng(11), texts=25)
        found = readouts.ridge()(Examples(train, positive_n))
        x_nk = train.highest.astype(float)
        weight_n = np.where(positive_n, 0.5 / positive_n.sum(), 0.5 / (~positive_n).sum())
        spread = weight_n @ ((x_nk - weight_n @ x_nk) ** 2).sum(axis=1)
        slow = Ridge(readouts.PENALTY * spread).fit(x_nk, np.where(positive_n, 1.0, -1.0), sample_weight=weight_n)
        assert found.of == "highest" and np.allclose(found.weight, slow.coef_, rtol=1e-6, atol=1e-12)

    def test_shares_are_of_the_nearest(self):
        cosine_nk = torch.tensor([[0.9, 0.5, 0.4], [0.7, 0.7, -1.0]])
        found = readouts.shares(cosine_nk)
        assert torch.allclose(found.sum(dim=1), torch.ones(2))
        assert found[0, 0] > 0.999 and torch.allclose(found[1], torch.tensor([0.5, 0.5, 0.0]))

    def test_margin_decides_among_faultless_columns(self):
        positive_n = np.array([True, True, False, False])
        highest = np.array([[1, 1], [1, 1], [0.9, 0], [0, 0]], np.float32)
        assert readouts.best(Examples(Pooled(highest, highest, highest, np.ones(4)), positive_n)).columns == [1]

    @pytest.mark.parametrize("trained_on", axbench_site.TRAININGS)
    @pytest.mark.parametrize("name", list(axbench_site.CHOICES))
    def test_rules_see_training_texts_only(self, name, trained_on):
        texts, _ = random_pooled(np.random.default_rng(5), texts=40)
        concept = Concept("", "", *np.arange(30).reshape(3, 10), *[np.arange(20, 20)] * 3)
        blind = Pooled(texts.highest.copy(), texts.mean.copy(), texts.profile.copy(), texts.tokens)
        seen = [*concept.positive, *concept.negative, *(concept.others if trained_on == "all" else ())]
        unseen = np.setdiff1d(np.arange(40), seen)
        for of in (blind.highest, blind.mean, blind.profile):
            of[unseen] = np.nan
        rule = axbench_site.CHOICES[name]
        seeing, found = (rule(axbench_site.learned_from(given, concept, trained_on)[1]) for given in (texts, blind))
        assert np.array_equal(seeing.columns, found.columns) and np.array_equal(seeing.weight, found.weight)

    def test_judged_against_each_kind(self):
        score_t = np.array([3.0, 1, 2, 0, 5])
        rows = {name: np.array(found) for name, found in (("positive", [0, 1]), ("negative", [2, 3]), ("hard", [4]))}
        concept = Concept("", "", *[np.arange(0)] * 3, rows["positive"], rows["negative"], rows["hard"])
        found = axbench_site.judged(*axbench_site.evaluated(score_t, concept))
        assert found == {"negative": 0.75, "hard": 0.0, "auroc": 0.5}

    def test_summary_is_over_concepts_that_have_a_value(self):
        mean, low, high = axbench.summary([0.8, None, 0.9, 1.0])
        assert mean == pytest.approx(0.9) and 0.8 <= low < 0.9 < high <= 1.0
        assert np.isnan(axbench.summary([None])).all()


class TestBaselines:
    def test_directions_found_with_labels(self):
        rng = np.random.default_rng(6)
        axis_d = np.eye(8)[3]
        positive_n = rng.random(600) < 0.5
        x_nd = (rng.normal(size=(600, 8)) + 4).astype(np.float32)
        x_nd[positive_n] += (rng.normal(1.5, 3, positive_n.sum())[:, None] * axis_d).astype(np.float32)
        for found in (baselines.difference_of_means(x_nd, positive_n), baselines.lat(x_nd, positive_n, 0)):
            assert found @ axis_d / np.linalg.norm(found) > 0.9
        probe = baselines.logistic(x_nd, positive_n)
        assert slow_auroc(x_nd @ probe, positive_n) > 0.6 and np.abs(probe).argmax() == 3

    def test_directions_found_without(self):
        rng = np.random.default_rng(7)
        x_nd = torch.from_numpy(rng.normal(size=(5000, 6)).astype(np.float32))
        u_nd = baselines.centred(x_nd, torch.zeros(6))
        cells = baselines.spherical_kmeans(u_nd, 12, seed=0)
        drawn = nulls.random_exemplars(u_nd, 12, seed=0)
        axes = baselines.principal(u_nd)
        for found in (cells, drawn, axes):
            assert found.shape == (12, 6) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        fit = [float((u_nd @ torch.as_tensor(found).T).amax(dim=1).mean()) for found in (cells, drawn)]
        assert fit[0] > fit[1]  # cells lie nearer than drawn directions
        assert np.array_equal(baselines.spherical_kmeans(u_nd, 12, seed=0), cells)
        with pytest.raises(EPError, match="9,000 directions cannot be had from 5,000 activations"):
            nulls.random_exemplars(u_nd, 9000, seed=0)

    def test_partitions_are_those_of_a_build(self):
        x_nd = torch.from_numpy(np.random.default_rng(8).normal(size=(3000, 6)).astype(np.float32))
        found = baselines.partitions(x_nd, [5.0, 20.0])
        for percentile, d in found.items():
            estimator = ep.ExemplarPartition(percentile=percentile).fit(x_nd.numpy())
            assert np.array_equal(estimator.exemplars_, d.exemplars.numpy())
        means_kd = baselines.mean_members(found[5.0], x_nd)
        ids = found[5.0].assign(x_nd)[0]
        own = baselines.centred(x_nd[ids == 0], found[5.0].center).double().sum(dim=0)
        assert np.allclose(means_kd[0], own / own.norm(), atol=1e-5)

    def test_cosines(self):
        rng = np.random.default_rng(9)
        x_nd, d_kd = torch.randn(5, 4), rng.normal(size=(3, 4)).astype(np.float32)
        center_d = torch.ones(4)
        x_nd[2] = center_d
        found = baselines.cosines(center_d, d_kd)(x_nd).numpy()
        u_nd = (x_nd - 1).numpy()
        u_nd[2] = 1
        u_nd /= np.linalg.norm(u_nd, axis=1, keepdims=True)
        u_nd[2] = 0
        assert np.allclose(found, u_nd @ d_kd.T, atol=1e-6)


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return ep.load_model(tiny_folder)


class TestWhole:
    def test_a_planted_word_is_found(self, loaded, stem, tmp_path):
        torch.manual_seed(0)
        width = loaded.info.d_model
        sae = SparseAutoencoder(
            torch.randn(width, 32), torch.zeros(32), torch.randn(32, width), torch.zeros(width), "topk", k=4
        )
        elsewhere = SparseAutoencoder(
            sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, "relu", site="blocks.2.hook_resid_post"
        )
        plan = axbench.Plan(("resid_post.0", "resid_post.1"), percentiles=(5.0, 10.0), tokens=4000)
        text = read_documents(iter(sentences(400, seed=1)))
        found = axbench.run(
            loaded,
            [read_concepts(stem)],
            plan,
            cache=tmp_path,
            text=text,
            saes={"a": sae, "elsewhere": elsewhere},
        )
        trained = {(r["site"], r["basis"], r["rule"], r["percentile"], r["training"]): r for r in found["rows"]}
        assert len(trained) == len(found["rows"])
        rows = {key[:-1]: row for key, row in trained.items() if key[-1] == "own"}
        assert {key[:-1] for key, row in trained.items() if key[-1] == "all"} == set(rows)
        assert not any(basis == "elsewhere" for _, basis, _, _ in rows)
        for basis in ("exemplar", "mean"):
            for rule in ("best", "five best", "profile", "ridge"):
                assert np.mean(rows["resid_post.0", basis, rule, 5.0]["auroc"]) > 0.8, (basis, rule)
        assert (
            np.mean(rows["resid_post.0", "logistic probe", "", None]["auroc"]) > 0.5
        )  # it has ten texts to learn from
        for texts in axbench_site.TRAININGS:
            for rule in axbench_site.TOGETHER:
                row = trained["resid_post.0", "exemplar, 2 percentiles", rule, None, texts]
                assert np.mean(row["auroc"]) > 0.8, (rule, texts)
        sizes = {(d["site"], d["percentile"]): d["k"] for d in found["dictionaries"]}
        for basis in ("exemplar", "mean", "k-means", "random exemplars"):
            assert rows["resid_post.1", basis, "best", 5.0]["k"] == sizes["resid_post.1", 5.0]
        (given,) = found["sets"]
        assert [c["evaluation"] for c in given["concepts"]] == [[10, 10, 3]] * 2
        json.dumps(found, allow_nan=False)

    def test_what_is_finished_is_not_done_again(self, loaded, stem, tmp_path):
        plan = axbench.Plan(("resid_post.0",), percentiles=(10.0,), tokens=1000)
        told: list[str] = []

        def run():
            told.clear()
            text = DocumentSource("words", lambda: iter(read_documents(iter(sentences(100, seed=1)))))
            return axbench.run(
                loaded,
                [read_concepts(stem)],
                plan,
                cache=tmp_path,
                text=text,
                report=lambda what, *_: told.append(what),
            )

        first = run()
        assert any("PCA" in what for what in told)
        for piece in tmp_path.glob("axbench-*/*PCA*.json"):
            piece.unlink()
        assert run() == first and all("PCA" in what for what in told)
        assert run() == first and not told
        (piece,) = tmp_path.glob("axbench-*/*PCA*.json")
        piece.write_text("{")
        with pytest.raises(DataError, match="is damaged"):
            run()

    def test_the_command(self, stem, tiny_folder, text_file, tmp_path):
        arguments = ["experiment", "axbench", str(stem), "--out", str(tmp_path), "--model", str(tiny_folder), "--quick"]
        arguments += ["--text", str(text_file), "--json"]
        first = CliRunner().invoke(app, arguments)
        assert first.exit_code == 0, first.output
        result = json.loads((tmp_path / "result.json").read_bytes())
        assert result["experiment"] == "axbench" and result["text"]["source"] == text_file.name
        assert {row["percentile"] for row in result["rows"]} == {4.0, None}
        table = CliRunner().invoke(app, arguments[:-1])
        assert "hard" in table.output and "random exemplars" in table.output
        again = json.loads((tmp_path / "result.json").read_bytes())
        assert again["rows"] == result["rows"]

    def test_what_does_not_fit(self, loaded, stem, tmp_path):
        narrow = SparseAutoencoder(torch.randn(8, 9), torch.zeros(9), torch.randn(9, 8), torch.zeros(8), "relu")
        text = read_documents(iter(sentences(5, seed=1)))
        plan = axbench.Plan(("resid_post.0",))
        with pytest.raises(EPError, match="the autoencoder narrow has width 8, activations of tiny-llama have 24"):
            axbench.run(loaded, [read_concepts(stem)], plan, cache=None, text=text, saes={"narrow": narrow})
        with pytest.raises(EPError, match="at least one set"):
            axbench.run(loaded, [], plan, cache=None, text=text)
        out = CliRunner().invoke(app, ["experiment", "axbench", str(tmp_path / "none"), "--out", str(tmp_path)])
        assert isinstance(out.exception, EPError) and "no concepts at" in str(out.exception)


class TestPooled:
    @staticmethod
    def result(model, sites, concepts, shift):
        rng = np.random.default_rng(shift)
        methods = [("exemplar", "best", 1.0), ("DiffMean", "", None), ("logistic probe", "", None), ("LAT", "", None)]
        methods += [("SAE", "best", None)] * (model == "a")
        values = rng.random((len(sites), len(methods), 3, concepts)).round(4)
        values[:, 1] += 1  # DiffMean is the better reference
        rows = [
            {"site": site, "basis": m[0], "rule": m[1], "percentile": m[2], "training": texts, "k": 1}
            | dict(zip(axbench_site.KINDS, map(list, values[i, j] + 0.25 * (texts == "all")), strict=True))
            for i, site in enumerate(sites)
            for j, m in enumerate(methods)
            for texts in axbench_site.TRAININGS
        ]
        for row in rows:
            row["hard"][0] = None
        return {
            "model": {"id": model},
            "plan": {"sites": sites},
            "sets": [{"name": "s", "concepts": [{}] * concepts}],
            "dictionaries": [{"percentile": 1.0}],
            "saes": {},
            "rows": rows,
        }

    def test_means_are_over_places_and_then_concepts(self):
        results = [self.result("a", ["x", "y"], 3, 1), self.result("b", ["z"], 2, 2)]
        trained = {(row["basis"], row["training"]): row for row in axbench_pooled.pooled(results)}
        rows = {basis: row for (basis, texts), row in trained.items() if texts == "own"}
        assert set(rows) == {"exemplar", "DiffMean", "logistic probe", "LAT"}  # the SAE was not tried everywhere
        assert axbench_pooled.reference(axbench_pooled.methods(results)) == ("DiffMean", "", None, "own")
        by = {c: [] for c in range(3)}
        hard, above = {c: [] for c in range(3)}, {c: [] for c in range(3)}
        for result in results:
            for site in result["plan"]["sites"]:
                mine, other = (
                    next(r for r in result["rows"] if (r["site"], r["basis"]) == (site, b))
                    for b in ("exemplar", "DiffMean")
                )
                for c, value in enumerate(mine["auroc"]):
                    by[c].append(value)
                    above[c].append(value - other["auroc"][c])
                    if mine["hard"][c] is not None:
                        hard[c].append(mine["hard"][c])
        assert rows["exemplar"]["auroc"][0] == pytest.approx(np.mean([np.mean(v) for v in by.values()]), abs=1e-4)
        assert rows["exemplar"]["hard"][0] == pytest.approx(np.mean([np.mean(v) for v in hard.values() if v]), abs=1e-4)
        value, low, high = rows["exemplar"]["above_reference"]
        assert value == pytest.approx(np.mean([np.mean(v) for v in above.values()]), abs=1e-4) and low <= value <= high
        assert rows["DiffMean"]["above_reference"] == [0, 0, 0]
        more = trained["DiffMean", "all"]
        assert more["above_reference"] == pytest.approx([0.25] * 3) and more["above_same"] == [0, 0, 0]

    def test_the_figure_is_drawn(self):
        from exemplar_partitioning.show.figures import to_bytes

        results = [self.result("a", ["x", "y"], 3, 1), self.result("b", ["z"], 2, 2)]
        svg = to_bytes(axbench_figure(results), "svg")
        assert b"<svg" in svg and svg == to_bytes(axbench_figure(results), "svg")


def test_ridge_from_products_of_texts_ranks_as_ridge_on_columns():
    rng = np.random.default_rng(3)
    x = rng.normal(1, 1, (60, 200)).astype(np.float32)
    rows, positive = rng.choice(60, 30, replace=False), np.arange(30) < 9
    texts = of_table(x)
    expected = readouts.ridge("highest", 0.01)(Examples(texts[rows], positive)).score(texts)
    apart = DualRidge(x, 0.01).score(rows, positive) - expected
    assert np.ptp(apart) < 1e-3 * np.ptp(expected)  # but for a constant


def test_few_pairs_are_counted_as_many_are(monkeypatch):
    score = np.random.default_rng(4).integers(0, 5, (40, 7)).astype(np.float32)
    positive = np.arange(40) < 13
    few = auroc(score, positive)
    monkeypatch.setattr(readouts, "FEW_PAIRS", 0)
    assert np.array_equal(few, auroc(score, positive))
