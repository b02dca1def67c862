"""Probes: tasks read and split by hand, intervals and areas by the slow way, a planted task through the whole thing."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import exemplar_partitioning as ep
from conftest import WORDS
from ep_experiments.activations import TextActivations
from ep_experiments.paired import auroc, interval, macro_auroc, ratio, resamples
from ep_experiments.probes import logistic
from ep_experiments.probes import retention as probes
from ep_experiments.probes.features import Plan, named, one_hot, read_rows, shares
from ep_experiments.probes.logistic import prepared, probe, top_features
from ep_experiments.tasks import collection_names, collection_task, file_task, make_task, split
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder

SMALL = {"calibration_batch": 1000, "calibration_sample": 3000}


def texts_ending(word, count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join([*rng.choice(WORDS, 6), word]) for _ in range(count)]


def planted_task(name="king or stone", count=120):
    """Which of two words a text ends with: the last token says it all."""
    pairs = [(text, word) for word in ("king", "stone") for text in texts_ending(word, count, seed=len(word))]
    return make_task(name, pairs)


class TestTasks:
    def test_repeated_and_contradictory_texts(self):
        rows = [
            ("One fish", 1),
            ("one  FISH\n", 1),
            ("two fish", 0),
            ("red fish", 0),
            ("Red fish", 1),
            ("", 1),
            (None, 0),
        ]
        task = make_task("fish", [*rows, ("blue fish", None), ("old fish", 0)])
        assert task.texts == ["One fish", "two fish", "old fish"]
        assert [task.classes[i] for i in task.label_n] == ["1", "0", "0"]
        assert task.dropped == {"repeated": 2, "two labels": 1, "no text": 2, "no label": 1}

    def test_one_class(self):
        with pytest.raises(EPError, match="2 different texts with 1 classes"):
            make_task("fish", [("a", 1), ("b", 1)])

    def test_split_is_stratified_seeded_and_apart(self):
        task = make_task("many", [(f"text {i}", i % 5 == 0) for i in range(400)])
        train, test = split(task, 200, 100, seed=3)
        assert (len(train), len(test)) == (200, 100) and not set(train) & set(test)
        assert task.label_n[train].sum() == 40 and task.label_n[test].sum() == 20
        again = split(task, 200, 100, seed=3)
        assert (again[0] == train).all() and (again[1] == test).all()
        assert (split(task, 200, 100, seed=4)[0] != train).any()
        few = split(task, 4000, 1000, seed=0)
        assert list(map(len, few)) == [320, 80]

    def test_too_few_rows(self):
        task = make_task("rare", [(f"text {i}", i < 6) for i in range(100)])
        with pytest.raises(EPError, match="class 'True' with 6 rows would have about 4"):
            split(task, 600, 300, seed=0)

    @pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv", ".json", ".parquet"])
    def test_files(self, tmp_path, ending):
        rows = [{"q": f"is {i}, or is it\nnot?", "kind": ["yes", "no", "maybe"][i % 3], "n": i} for i in range(9)]
        path = tmp_path / f"ask{ending}"
        if ending == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(rows), path)
        elif ending == ".csv":
            import csv

            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif ending == ".json":
            path.write_text(json.dumps(rows))
        else:
            data = "".join(json.dumps(row) + "\n" for row in rows).encode()
            path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
        task = file_task(path, "q", "kind")
        assert (task.name, task.classes) == ("ask", ["maybe", "no", "yes"])
        assert task.texts == [row["q"] for row in rows]
        assert [task.classes[i] for i in task.label_n] == [row["kind"] for row in rows]
        with pytest.raises(EPError, match="no 'label' among q, kind, n; name the columns"):
            file_task(path, "q")

    def test_files_that_are_none(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"text": "x", \n')
        (tmp_path / "b.json").write_text('["x"]')
        (tmp_path / "c.txt").write_text("x")
        for name, message in (("a.jsonl", "not JSON"), ("b.json", "an object a row"), ("c.txt", "expected a file")):
            with pytest.raises(EPError, match=message):
                file_task(tmp_path / name)

    @pytest.mark.packaged
    def test_the_collection(self):
        names = collection_names()
        assert len(names) == 113 and names[0] == "5_hist_fig_ismale" and names[-1] == "163_agnews_2"
        task = collection_task("92_glue_sst2")
        assert task.classes == ["0", "1"] and len(task.texts) > 4000
        with pytest.raises(EPError, match="no task 'sst2': expected a file, or a name of the sae-probes collection"):
            collection_task("sst2")


class TestResampling:
    def test_auroc_is_that_of_scikit_learn_on_the_drawn_rows(self):
        rng = np.random.default_rng(0)
        score, positive = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
        draws = resamples(40, 20, seed=1)
        assert (draws.sum(axis=1) == 40).all()
        expected = [roc_auc_score(np.repeat(positive, w), np.repeat(score, w)) for w in draws]
        assert auroc(score, positive, draws) == pytest.approx(expected)
        assert np.isnan(auroc(score, np.ones(40, bool), draws)).all()

    def test_macro_auroc(self):
        rng = np.random.default_rng(0)
        proba, label = rng.dirichlet(np.ones(4), 60), rng.integers(0, 4, 60)
        expected = roc_auc_score(label, proba, multi_class="ovr", average="macro")
        assert macro_auroc(proba, label, np.ones((1, 60), int))[0] == pytest.approx(expected)

    def test_the_interval_of_a_share_covers_the_truth(self):
        """Of many samples of one coin, about 95 % give an interval with its true share inside."""
        rng = np.random.default_rng(0)
        draws = resamples(100, 400, seed=0)
        inside = 0
        for _ in range(300):
            low, high = interval(draws @ (rng.random(100) < 0.7) / 100)
            inside += low <= 0.7 <= high
        assert 0.90 <= inside / 300 <= 0.98

    def test_ratio(self):
        upper, lower = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
        weights = np.array([[1, 1, 1], [0, 0, 3], [3, 0, 0]])
        assert ratio(upper, lower, weights) == pytest.approx([1, 1.5, 0.5])
        undefined = ratio(upper, -lower, weights)
        assert np.isnan(undefined).all() and np.isnan(interval(undefined)).all()
        assert interval(np.array([1.0, np.nan, 1.0])) == (1, 1)


class TestLogistic:
    def test_preparing_changes_no_prediction(self):
        """More features than rows are turned onto the span of the rows: the same regression, by the direct way."""
        rng = np.random.default_rng(0)
        train, test, label = rng.normal(size=(40, 90)), rng.normal(size=(30, 90)), rng.integers(0, 2, 40)
        a, b = prepared(train, test, standardise=True)
        assert a.shape == (40, 40) and (a**2).sum(axis=1).mean() == pytest.approx(1)
        scale = np.sqrt((((train - train.mean(0)) / train.std(0)) ** 2).sum(axis=1).mean())
        direct = [(x - train.mean(0)) / train.std(0) / scale for x in (train, test)]
        settings = {"C": 3.0, "tol": 1e-10, "max_iter": 10_000}
        turned = LogisticRegression(**settings).fit(a, label).predict_proba(b)
        assert turned == pytest.approx(
            LogisticRegression(**settings).fit(direct[0], label).predict_proba(direct[1]), abs=1e-5
        )

    def test_strength_is_chosen_on_training_rows(self):
        rng = np.random.default_rng(0)
        label = rng.integers(0, 2, 200)
        noise, signal = rng.normal(size=(200, 50)), rng.normal(size=(200, 3)) + 3 * label[:, None]
        _, weak = probe(noise, label, noise[:5], standardise=True, seed=0)
        proba, strong = probe(signal, label, signal, standardise=True, seed=0)
        assert weak < strong and (proba.argmax(axis=1) == label).mean() > 0.95

    @pytest.mark.parametrize("value", [1.0, -0.1739])  # the deviation of so many of the second rounds to more than 0
    def test_features_that_never_vary(self, value):
        label = np.arange(40) % 4 == 0
        train = np.full((40, 3), value, np.float32)
        proba, _ = probe(train, label.astype(int), np.zeros((2, 3), np.float32), standardise=True, seed=0)
        assert proba == pytest.approx(np.tile([0.75, 0.25], (2, 1)), abs=1e-3)

    def test_top_features(self):
        label = np.array([0, 0, 1, 1])
        train = np.array([[0, 5, 1], [0, 5, 1], [1, 5, 4], [1, 5, 4]], float)
        assert top_features(train, label, 2).tolist() == [2, 0]


def test_forms_of_regions_by_hand():
    assert one_hot(np.array([2, 0, -1]), 3).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    found = shares(np.array([5, 5, 2, 2, -1, 7, 7, 2]), np.array([0, 3, 8]))
    assert found == pytest.approx(np.array([[1 / 3, 2 / 3, 0], [2 / 5, 0, 2 / 5]]))


def test_an_exemplar_says_no_more_than_its_number():
    exemplars = torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    d = ep.Dictionary(torch.zeros(6), exemplars, 0.9)
    ids = np.array([2, 0, -1, 2])
    found = named(d, ids)
    assert (found[ids >= 0] == exemplars.numpy()[ids[ids >= 0]]).all() and not found[2].any()


class TestFigures:
    """Retention by hand: ten rows, of which guessing gets 5, raw 9 and the arm 7."""

    def judged(self, right):
        label = np.array([0, 1] * 5)
        says = np.where(np.arange(10) < right, label, 1 - label)
        return probes.Judged("raw", np.eye(2)[says] * 0.8 + 0.1, 1.0)

    def test_by_hand(self):
        guess = probes.Judged("raw", np.tile([0.5, 0.5], (10, 1)), None)
        every = {("majority", ""): guess, ("raw", ""): self.judged(9), ("one-hot", "p 1"): self.judged(7)}
        found = {row["arm"]: row for row in probes.figures(every, np.array([0, 1] * 5), Plan(resamples=2000))}
        assert found["majority"]["accuracy"][0] == 0.5 and found["majority"]["auroc"][0] == 0.5
        one = found["one-hot"]
        assert one["accuracy"][0] == 0.7 and one["retention"][0] == pytest.approx(7 / 9, abs=1e-4)
        assert one["corrected"][0] == 0.5
        assert found["raw"]["retention"] == [1, 1, 1]
        low, high = one["retention"][1:]
        assert low < 7 / 9 < high <= 1  # the same rows in both: never above raw, which has all of its right ones

    def test_nothing_to_retain(self):
        guess = probes.Judged("raw", np.tile([0.5, 0.5], (10, 1)), None)
        every = {("majority", ""): guess, ("raw", ""): self.judged(5), ("one-hot", "p 1"): self.judged(7)}
        assert all(row["corrected"] is None for row in probes.figures(every, np.array([0, 1] * 5), Plan()))

    def test_pooled_is_the_ratio_of_means(self):
        def task(*accuracies):
            arms = zip(("majority", "raw", "one-hot"), accuracies, strict=True)
            return {
                "arms": [{"arm": a, "detail": "", "against": "raw", "accuracy": [v], "auroc": [v]} for a, v in arms]
            }

        rows = {row["arm"]: row for row in probes.pooled([task(0.5, 0.9, 0.7), task(0.5, 0.6, 0.6)], Plan())}
        one = rows["one-hot"]
        assert one["retention"][0] == pytest.approx(1.3 / 1.5, abs=1e-4)
        assert one["corrected"][0] == pytest.approx(0.3 / 0.5, abs=1e-4)
        assert one["retention"][1:] == pytest.approx([0.7 / 0.9, 1], abs=1e-4)


@pytest.fixture(scope="module", autouse=True)
def few_penalties():
    """Three in place of seven: on planted classes the weakest take nearly all of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(logistic, "GRID", (0.1, 1.0, 10.0))
        yield


@pytest.fixture(scope="module")
def loaded(roomy_folder):
    return ep.load_model(str(roomy_folder))


@pytest.fixture(scope="module")
def built(loaded, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("probes") / "build"
    ep.build(loaded, text_file, out=out, sites=["resid_post.1"], percentiles=(2.0, 20.0), max_tokens=6000, **SMALL)
    return out


@pytest.fixture(scope="module")
def sae():
    generator = torch.Generator().manual_seed(0)
    w_fd = torch.randn((40, 24), generator=generator)
    return SparseAutoencoder(w_fd.T.contiguous(), torch.zeros(40), w_fd, torch.zeros(24), "topk", k=4)


@pytest.fixture(scope="module")
def result(built, loaded, sae, tmp_path_factory):
    dictionaries = [ep.load(built, percentile=p) for p in (2, 20)]
    plan = Plan(train=100, test=60, top=4, resamples=200)
    out = tmp_path_factory.mktemp("probes")
    return probes.run(dictionaries, {"made": sae}, loaded, [planted_task()], plan, out), out, dictionaries, plan


class TestPlanted:
    def test_region_of_the_last_token_keeps_what_the_probe_reads(self, result):
        found = {(row["arm"], row["detail"]): row for row in result[0]["pooled"]}
        for arm in (
            ("raw", ""),
            ("token", ""),
            ("one-hot", "p 2"),
            ("exemplar", "p 2"),
            ("cosine", "p 2"),
            ("sae dense", "made"),
        ):
            assert found[arm]["accuracy"][0] >= 0.9, arm
        assert found["majority", ""]["accuracy"][0] == 0.5
        assert found["one-hot", "p 2"]["corrected"][0] >= 0.8
        arms = {arm for arm, _ in found}
        assert arms >= {
            "share",
            "random",
            "random direction",
            "words",
            "raw mean",
            "sae top-1",
            "sae top-4",
            "sae one-hot",
        }
        assert ("one-hot", "all p") in found

    def test_intervals_hold_their_values(self, result):
        for row in [*result[0]["pooled"], *result[0]["tasks"][0]["arms"]]:
            for name in ("accuracy", "auroc", "retention"):
                value, low, high = row[name]
                assert low <= value <= high, (row["arm"], name)

    def test_it_is_plain_json_and_goes_on_from_what_is_done(self, result, loaded, sae):
        found, out, dictionaries, plan = result
        assert json.loads(probes.to_lines(found)) == json.loads(json.dumps(found))
        (kept,) = (out / "tasks").iterdir()
        changed = json.loads(kept.read_bytes()) | {"tokens": -1}
        kept.write_text(json.dumps(changed))
        again = probes.run(dictionaries, {"made": sae}, loaded, [planted_task()], plan, out)
        assert again["tasks"][0]["tokens"] == -1
        other = probes.run(dictionaries[:1], {}, loaded, [planted_task()], plan, out)
        assert other["tasks"][0]["tokens"] > 0

    def test_test_texts_that_begin_as_training_ones_are_dropped(self, loaded):
        task = planted_task()
        short = Plan(train=100, test=60, context_size=2)
        rows, lost = read_rows(loaded, "resid_post.1", task, short, None)
        keys = [tokens.tobytes() for tokens in np.split(rows.every.token_n, rows.every.start_t[1:-1])]
        assert not set(keys[: len(rows.label_n)]) & set(keys[len(rows.label_n) :])
        assert len(keys) == len(rows.label_n) + len(rows.label_t) == 160 - lost["the same beginning in training"]
        assert isinstance(rows.every, TextActivations) and len(rows.every.x_nd) == rows.every.start_t[-1]

    def test_what_does_not_fit(self, result, loaded, sae, tmp_path):
        _, _, dictionaries, plan = result
        narrow = SparseAutoencoder(torch.zeros(8, 4), torch.zeros(4), torch.zeros(4, 8), torch.zeros(8), "relu")
        with pytest.raises(EPError, match="narrow takes activations of 8 numbers"):
            probes.run(dictionaries, {"narrow": narrow}, loaded, [], plan, tmp_path)
        elsewhere = replace(sae, site="blocks.2.hook_resid_post")
        with pytest.raises(EPError, match="the dictionaries are of resid_post"):
            probes.run(dictionaries, {"made": elsewhere}, loaded, [], plan, tmp_path)


def test_quick_on_the_command_line(built, roomy_folder, tmp_path):
    from typer.testing import CliRunner

    task = planted_task(count=160)
    rows = [{"say": text, "kind": int(label)} for text, label in zip(task.texts, task.label_n, strict=True)]
    file = tmp_path / "planted.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["experiment", "probes", str(built), "--out", str(tmp_path / "out"), "--model", str(roomy_folder)]
    arguments += ["--task", f"{file}:kind", "--text-field", "say", "--quick"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "one-hot" in done.stdout
    found = json.loads((tmp_path / "out" / "result.json").read_bytes())
    assert found["experiment"] == "probes" and found["tasks"][0]["train"] == 200
