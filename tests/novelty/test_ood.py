"""Text unlike a dictionary's: scores and tails by hand, false alarms kept when simulated and on real text, `ep ood`."""

import json
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import betabinom

import exemplar_partitioning as ep
from annotated import annotated
from conftest import sentences
from exemplar_partitioning.demo.corpus import documents_of
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.files import unsealed
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.novelty.conformal import POINTS, Tail, fewest, sure_level
from exemplar_partitioning.novelty.detector import Detector, Scale
from exemplar_partitioning.novelty.scores import SCORES, SHARPNESS, token_scores


@pytest.fixture
def command(ep_main):
    return partial(ep_main, columns=120)


@pytest.fixture(scope="module")
def tiny(tiny_folder, tmp_path_factory):
    """A dictionary of the tiny model's activations on random sentences, and the model."""
    loaded = ep.load_model(str(tiny_folder))
    out = tmp_path_factory.mktemp("ood") / "build"
    ep.build(
        loaded,
        iter(sentences(300, seed=1)),
        out=out,
        sites="resid_post.1",
        percentiles=[4],
        context_size=64,
        calibration_batch=2048,
        calibration_sample=2048,
    )
    (d,) = ep.annotate(out, iter(sentences(300, seed=1)), model=loaded)
    return d, loaded


def novel(count, seed):
    """Documents of characters at random."""
    rng = np.random.default_rng(seed)
    return ["".join(chr(c) for c in rng.integers(33, 126, size=int(n))) for n in rng.integers(30, 200, size=count)]


def at_most(detector, documents):
    """Flagged documents that a detector which keeps its rate exceeds once in 1,000 fits."""
    n, rate = detector.record.documents.documents, detector.record.false_alarms
    k = int(rate * (n + 1))  # of the ranks 1..n+1, those that flag
    return betabinom.ppf(0.999, documents, k, n + 1 - k)


class TestScores:
    def test_by_hand(self, tmp_path):
        d = annotated(tmp_path, k=30, percentiles=(2,))[0]
        rng = np.random.default_rng(0)
        x_nd = rng.standard_normal((50, d.d_model)).astype(np.float32) + d.center.numpy()
        found = token_scores(d, x_nd)
        u_nd = (x_nd - d.center.numpy()) / np.linalg.norm(x_nd - d.center.numpy(), axis=1, keepdims=True)
        away_nk = 1 - u_nd.astype(float) @ d.exemplars.numpy().T.astype(float)
        near = np.sort(away_nk, axis=1)
        members = d.annotation.regions["members"].to_numpy()
        has = members > 0
        to_mean_nk = 1 - u_nd.astype(float) @ d.annotation.mean_directions.T.astype(float)
        log_share = np.log(members[has] / members.sum())
        np.testing.assert_allclose(found.distance, near[:, 0], atol=1e-5)
        np.testing.assert_allclose(found.margin, near[:, 0] - near[:, 1], atol=1e-5)
        np.testing.assert_array_equal(found.beyond, near[:, 0] > d.threshold)
        np.testing.assert_allclose(
            found.surprise, -logsumexp(log_share / 2 - SHARPNESS * to_mean_nk[:, has], axis=1), atol=1e-3
        )
        assert 0 < found.beyond.mean() < 1

    def test_what_has_no_direction_is_as_far_as_can_be(self, tmp_path):
        d = annotated(tmp_path, k=30, percentiles=(2,))[0]
        x_nd = torch.stack([d.center, torch.full((d.d_model,), torch.nan), d.center + d.exemplars[3]])
        found = token_scores(d, x_nd)
        assert found.distance[:2].tolist() == [2, 2] and found.distance[2] == pytest.approx(0, abs=1e-6)
        assert found.surprise[0] == found.surprise[1] > found.surprise[2]

    def test_without_evidence(self, tmp_path):
        d = annotated(tmp_path, k=30, percentiles=(2,), annotate=False)[0]
        with pytest.raises(EPError, match="is not annotated"):
            token_scores(d, d.center[None] + d.exemplars[:1])


class TestConformal:
    def test_p_by_hand(self):
        tail = Tail.of([np.array([1.0, 3.0]), np.array([2.0])])
        assert tail.scores == [1, 2, 3] and tail.above == pytest.approx([0.75, 0.25, 0])
        score = np.array([0.5, 1, 1.5, 2, 2.5, 3, 4])
        share = np.array([1, 1, 0.75, 0.75, 0.25, 0.25, 0])
        np.testing.assert_allclose(tail.p(score), (1 + 2 * share) / 3)

    def test_ties(self):
        tail = Tail.of([np.array([v]) for v in (1.0, 1.0, 2.0, 2.0)])
        np.testing.assert_allclose(tail.p(np.array([2.0, 2.1, 1.0])), [3 / 5, 1 / 5, 1])

    def test_a_long_tail_is_rounded_up_only(self):
        rng = np.random.default_rng(0)
        score_n = rng.standard_normal(20_000)
        tail = Tail.of([np.array([v]) for v in score_n])
        assert len(tail.scores) <= POINTS
        new = rng.standard_normal(500)
        exact = (1 + (score_n >= new[:, None]).sum(axis=1)) / 20_001
        ratio = tail.p(new) / exact
        assert ratio.min() >= 1 - 1e-9 and ratio.max() < 1.05
        np.testing.assert_allclose(Tail.model_validate_json(tail.model_dump_json()).p(new), tail.p(new))

    def test_false_alarms_are_kept_however_documents_differ(self):
        """Documents with their own level and length: rates over many calibrations, for documents and tokens."""
        rng = np.random.default_rng(1)

        def documents(count):
            lengths = rng.integers(1, 40, size=count)
            return [rng.standard_normal() * 2 + rng.standard_normal(n) ** 3 for n in lengths]

        flagged = {"documents": [], "tokens": []}
        for _ in range(300):
            learn, ranked, new = documents(15), documents(39), documents(20)
            scale = Scale.of(learn)
            by_document = Tail.of([np.array([scale.standard(d)]) for d in ranked])
            by_token = Tail.of(ranked)
            flagged["documents"].append(np.mean([by_document.p(np.array([scale.standard(d)])) <= 0.1 for d in new]))
            flagged["tokens"].append(np.mean([(by_token.p(d) <= 0.1).mean() for d in new]))
        for rates in flagged.values():
            error = np.std(rates) / np.sqrt(len(rates))
            assert 0.05 < np.mean(rates) < 0.1 + 3 * error

    def test_fewest(self):
        for rate in (0.5, 0.1, 0.05, 0.01, 0.003):
            n = fewest(rate)
            assert 1 / (n + 1) <= rate * (1 + 1e-9) < 1 / n

    def test_long_documents_vary_less(self):
        rng = np.random.default_rng(2)
        scale = Scale.of([3 + rng.standard_normal(n) for n in rng.integers(5, 200, size=500)])
        assert scale.mean == pytest.approx(3, abs=0.05) and scale.within == pytest.approx(1, abs=0.1)
        assert scale.between < 0.02
        assert scale.standard(np.full(100, 4.0)) > scale.standard(np.full(4, 4.0)) > 0


class TestDetector:
    @pytest.mark.parametrize("score", SCORES)
    def test_kept_and_read_again(self, tiny, score):
        d, loaded = tiny
        detector = Detector.fit(d, iter(sentences(200, seed=2)), loaded, false_alarms=0.05, score=score)
        detector.write()
        again = Detector.read(store.load(d.path))
        assert again.record == detector.record
        texts = sentences(30, seed=3)
        here, there = ([(r.p, r.flagged) for r in one.score(iter(texts), loaded)] for one in (detector, again))
        assert here == there
        assert store.load(d.path).content_id == d.content_id

    def test_novel_text_is_flagged_and_ordinary_is_not(self, tiny):
        d, loaded = tiny
        detector = Detector.fit(d, iter(sentences(400, seed=2)), loaded, false_alarms=0.05)
        ordinary = list(detector.score(iter(sentences(400, seed=5)), loaded))
        assert sum(row.flagged for row in ordinary) <= at_most(detector, 400)
        assert np.mean([row.flagged_tokens for row in ordinary]) < 0.08
        strange = list(detector.score(iter(novel(60, seed=0)), loaded))
        assert np.mean([row.flagged for row in strange]) > 0.8
        assert np.mean([row.p for row in ordinary]) > 0.4 > 0.1 > np.mean([row.p for row in strange])

    def test_rows_are_those_of_the_activations(self, tiny):
        d, loaded = tiny
        detector = Detector.fit(d, iter(sentences(60, seed=2)), loaded, false_alarms=0.1)
        text = sentences(1, seed=8)[0]
        (row,) = detector.score(iter([text]), loaded)
        (reading,) = ep.reading.read([d], loaded, text)
        assert [token.token_id for token in reading] == row.passage.token_n.tolist()
        assert [token.position for token in reading] == row.passage.position_n.tolist()
        np.testing.assert_allclose([token.distance for token in reading], row.passage.novelty.distance, atol=1e-5)
        assert row.tokens == len(reading) and row.beyond == np.mean([not token.within for token in reading])

    def test_long_documents_are_one(self, tiny):
        d, loaded = tiny
        detector = Detector.fit(d, iter(sentences(60, seed=2)), loaded, false_alarms=0.1)
        text = " ".join(sentences(100, seed=4))  # many windows, more than a chunk of them
        rows = list(detector.score(iter([text, "the dog.", " "]), loaded))
        assert len(rows) == 2 and rows[0].tokens > 2000
        assert rows[0].passage.position_n.tolist() == list(range(rows[0].tokens))
        first = rows[0].passage.prefix(200)
        assert len(first) == 200 % 64 + 2 and first[-1] == rows[0].passage.token_n[200]

    def test_activations_of_ones_own(self, tiny):
        d, loaded = tiny
        detector = Detector.fit(d, iter(sentences(60, seed=2)), loaded, false_alarms=0.1)
        novelty, p_n = detector.tokens(d.center[None] + torch.cat([d.exemplars[:4], -d.exemplars[:4]]))
        assert (novelty.distance[4:] > novelty.distance[:4]).all() and (p_n[4:] <= p_n[:4].min()).all()

    def test_text_of_the_build_is_refused(self, tiny):
        d, loaded = tiny
        with pytest.raises(EPError, match=r"holds text that .* was built from"):
            Detector.fit(d, iter(sentences(300, seed=1)[:100]), loaded, false_alarms=0.05)

    @pytest.mark.parametrize(
        "given, said",
        [
            ({"false_alarms": 0.0}, "between 0 and 1"),
            ({"token_false_alarms": 1.5}, "between 0 and 1"),
            ({"score": "vibes"}, "score is 'vibes'"),
            ({"false_alarms": 0.01}, "has 40 documents .* at least 131"),
            ({"token_false_alarms": 0.001}, "has 40 documents .* at least 1,331"),
        ],
    )
    def test_what_cannot_be_fitted(self, tiny, given, said):
        d, loaded = tiny
        with pytest.raises(EPError, match=said):
            Detector.fit(d, iter(sentences(40, seed=2)), **{"model": loaded, "false_alarms": 0.2, **given})

    def test_another_model(self, tiny):
        d, loaded = tiny
        other = replace(loaded, info=replace(loaded.info, fingerprint="0" * 64))
        with pytest.raises(EPError, match="is not the model"):
            Detector.fit(d, iter(sentences(40, seed=2)), other, false_alarms=0.1)
        detector = Detector.fit(d, iter(sentences(40, seed=2)), loaded, false_alarms=0.1)
        with pytest.raises(EPError, match="is not the model"):
            next(detector.score(iter(["the dog"]), other))

    def test_just_enough_documents(self, tiny):
        d, loaded = tiny
        texts = sentences(25, seed=2)
        assert Detector.fit(d, iter(texts), loaded, false_alarms=0.05).record.documents.documents == 19
        with pytest.raises(EPError, match="at least 25"):
            Detector.fit(d, iter(texts[:24]), loaded, false_alarms=0.05)

    def test_no_text(self, tiny):
        d, loaded = tiny
        detector = Detector.fit(d, iter(sentences(60, seed=2)), loaded, false_alarms=0.1)
        with pytest.raises(EPError, match="no document has a token"):
            list(detector.score(iter([" ", ""]), loaded))

    @pytest.mark.parametrize(
        "content, said",
        [
            ("{", "cannot be read as JSON"),
            ("[]", "JSON object"),
            ("{}", "does not hold a detector"),
            (lambda good: good | {"schema_version": "2.0"}, "schema_version"),
            (lambda good: good | {"dictionary": "0" * 64}, "another dictionary"),
            (lambda good: good | {"evidence": "0" * 64}, "annotated anew"),
            (lambda good: good | {"sharpness": 1.0}, "another version"),
            (lambda good: good | {"false_alarms": 2}, "false_alarms"),
            (lambda good: good | {"tokens": good["tokens"] | {"above": [0.5]}}, "side by side"),
            (lambda good: good | {"tokens": good["tokens"] | {"scores": [0.5], "above": [-3.0]}}, "between 0 and 1"),
            (lambda good: good | {"tokens": good["tokens"] | {"documents": 3}}, "different documents"),
            (lambda good: good | {"fitted_on": good["fitted_on"] | {"documents": 10**6}}, "more documents"),
        ],
    )
    def test_a_damaged_file(self, tiny, content, said):
        d, loaded = tiny
        path = Detector.fit(d, iter(sentences(60, seed=2)), loaded, false_alarms=0.1).write()
        path.write_text(content if isinstance(content, str) else json.dumps(content(unsealed(path))))
        with pytest.raises(DataError, match=said):
            Detector.read(d)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([0.5, 0.9, 0.99]), st.integers(1, 700))
def test_confidence_is_the_share_of_fits_that_keep_to_the_rate(rate, confidence, n):
    level = sure_level(rate, confidence, n)
    assert (level > 0) == (n >= fewest(rate, confidence))
    if not level:
        return
    # the flagged share of a fit with continuous scores: one minus the m-th largest of n uniform scores
    m, fits = round(level * (n + 1)), 4000
    flagged = np.random.default_rng(n).beta(m, n + 1 - m, size=fits)
    slack = 4 * np.sqrt(confidence * (1 - confidence) / fits)
    assert (flagged <= rate).mean() >= confidence - slack
    assert (np.random.default_rng(n).beta(m + 1, n - m, size=fits) <= rate).mean() <= confidence + slack


@pytest.mark.packaged
def test_false_alarms_are_kept_on_real_text(tmp_path):
    """SmolLM2 and the packaged text, its documents divided at random between build, fit and test."""

    texts = [document.text[:240] for document in islice(documents_of(None), 1000)]
    np.random.default_rng(0).shuffle(texts)
    loaded = ep.load_model("smollm2-135m-instruct", dtype="bfloat16")
    where = {"sites": "resid_post.9", "percentiles": [2], "calibration_batch": 4096, "calibration_sample": 4096}
    ep.build(loaded, iter(texts[:300]), out=tmp_path / "build", max_tokens=12_000, **where)
    (d,) = ep.annotate(tmp_path / "build", iter(texts[:300]), model=loaded)
    detector = Detector.fit(d, iter(texts[300:600]), loaded, false_alarms=0.1)
    ordinary = list(detector.score(iter(texts[600:]), loaded))
    assert 10 <= sum(row.flagged for row in ordinary) <= at_most(detector, len(ordinary))
    assert np.mean([row.flagged_tokens for row in ordinary]) < 0.13
    words = [" ".join(sorted(text.split())) for text in texts[600:650]]
    assert np.mean([row.flagged for row in detector.score(iter(words), loaded)]) > 0.2


class TestCommand:
    def test_fit_then_score(self, tiny, tiny_folder, tmp_path, command):
        d, _ = tiny
        (d.path / "ood.json").unlink(missing_ok=True)
        calm, strange = tmp_path / "calm.jsonl", tmp_path / "strange.jsonl"
        calm.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(80, seed=6)))
        strange.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*novel(5, 1), "\x1b[31m \u202e<b>"]))
        model = ["--model", tiny_folder]
        code, _, said = command("ood", "score", d.path, strange, *model)
        assert code == 2 and "has no detector yet: run `ep ood fit" in said
        code, shown, _ = command("ood", "fit", d.path, calm, "--false-alarms", 0.05, *model)
        assert code == 0 and "0.05 on average over fits will be flagged" in shown
        code, shown, _ = command("ood", "score", d.path, strange, "--tokens", *model)
        assert code == 0 and "flagged" in shown and "6 documents flagged; of ordinary ones, 0.05 on average" in shown
        assert "\u202e" not in shown and "\x1b[31m \ufffd" not in shown and "\u00ab" in shown
        code, shown, _ = command("ood", "score", d.path, strange, "--tokens", "--json", *model)
        found = json.loads(shown)
        assert found["detector"]["false_alarms"] == 0.05 and len(found["documents"]) == 6
        first = found["documents"][0]
        assert first["tokens"] == len(first["each_token"]) and first["document"] == "strange.jsonl:0"
        assert "".join(token["text"] for token in first["each_token"]) == novel(5, 1)[0]
        assert first["flagged_tokens"] == pytest.approx(np.mean([t["flagged"] for t in first["each_token"]]), abs=1e-4)

    def test_with_confidence(self, tiny, tiny_folder, tmp_path, command):
        d, _ = tiny
        calm = tmp_path / "calm.jsonl"
        calm.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(80, seed=6)))
        options = ["--model", tiny_folder, "--false-alarms", 0.1]
        code, shown, _ = command("ood", "fit", d.path, calm, *options, "--confidence", 0.95)
        assert code == 0 and "at most 0.1 (95% of fits keep to it) will be flagged" in shown
        assert Detector.read(d).record.false_alarms < 0.1 and Detector.read(d).record.sure.rate == 0.1
        code, _, said = command("ood", "fit", d.path, calm, *options, "--confidence", 0.9999)
        assert code == 2 and "calm.jsonl has 80 documents" in said and "at least 117" in said
        code, _, said = command("ood", "fit", d.path, calm, *options, "--confidence", 1)
        assert code == 2 and "a confidence is a share between 0 and 1" in said

    def test_too_little_text(self, tiny, tiny_folder, tmp_path, command):
        d, _ = tiny
        path = tmp_path / "few.jsonl"
        path.write_text('{"text": "the dog sings"}\n')
        code, _, said = command("ood", "fit", d.path, path, "--model", tiny_folder)
        assert code == 2 and "few.jsonl has 1 documents" in said and "at least 131" in said
