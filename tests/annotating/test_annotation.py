"""Evidence against a slow oracle, the same bytes after kills, and the lens against the model itself."""

import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import exemplar_partitioning as ep
import oracle
from building.test_build import activations
from conftest import sentences, tree
from exemplar_partitioning.annotating.best_rows import NONE, BestRows, ascending, descending, shuffled
from exemplar_partitioning.annotating.evidence import ChunkRows, Sample, thousandths
from exemplar_partitioning.annotating.gather import Gathered
from exemplar_partitioning.annotating.quality import _Noise, inequality, metrics, nearest_other
from exemplar_partitioning.annotating.token_counts import PairCounts
from exemplar_partitioning.errors import DataError, EPError, Interrupted, ResourceError
from exemplar_partitioning.folder import group
from exemplar_partitioning.folder.annotation import BIN_WIDTH, BINS
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.lens import lens
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.models.sites import resolve_sites
from exemplar_partitioning.stream import extract, text_chunks
from exemplar_partitioning.text.documents import read_documents
from tiny_models import FAMILIES, random_windows, tiny
from tiny_tokenizer import make_tokenizer

BUILD = {
    "sites": "resid_post.0,resid_post.1",
    "percentiles": [5, 30],
    "calibration_batch": 500,
    "calibration_sample": 2000,
    "saturation_window": 4000,
    "context_size": 32,
    "shuffle_buffer": 50,
}


@pytest.fixture(scope="module")
def built(tiny_folder, text_file, tmp_path_factory):
    """A build that is not annotated."""
    out = tmp_path_factory.mktemp("annotation") / "built"
    ep.build(str(tiny_folder), [text_file], out=out, **BUILD)
    return out


@pytest.fixture(scope="module")
def annotated(built, tiny_folder, text_file, tmp_path_factory):
    """The same build, annotated in one go."""
    out = tmp_path_factory.mktemp("annotation") / "annotated"
    shutil.copytree(built, out)
    ep.annotate(out, [text_file], model=str(tiny_folder))
    return out


@pytest.fixture(scope="module")
def by_hand(annotated, tiny_folder):
    """For one dictionary: activations of the text, their tokens, and regions and distances as the oracle has them."""
    dictionary = ep.load(annotated, site="resid_post.1", percentile=30)
    x_nd, tokens = activations(tiny_folder, annotated, "resid_post.1")
    ids, away = oracle.assign(x_nd.numpy(), dictionary.center.numpy(), dictionary.exemplars.numpy())
    return dictionary, x_nd.numpy(), tokens, ids, away


class TestAgainstTheOracle:
    def test_members_and_distances(self, by_hand):
        dictionary, x_nd, _, ids, away = by_hand
        known = dictionary.annotation
        regions, record = known.regions, known.record
        for r in range(dictionary.k):
            mine = ids == r
            row = known.region(r)
            assert row["members"] == mine.sum()
            assert row["within"] == (away[mine] <= dictionary.threshold).sum()
            if not mine.any():
                assert row["coherence"] is None and row["mean_lens_top"] == []
                continue
            u = np.array([oracle.direction(x, dictionary.center.numpy()) for x in x_nd[mine]])
            assert row["coherence"] == pytest.approx(np.linalg.norm(u.mean(axis=0)), abs=1e-6)
            assert row["mean_distance"] == pytest.approx(away[mine].mean(), abs=1e-6)
            assert row["std_distance"] == pytest.approx(away[mine].std(), abs=1e-5)
            mean = u.mean(axis=0) / np.linalg.norm(u.mean(axis=0))
            np.testing.assert_allclose(known.mean_directions[r], mean, atol=1e-5)
            np.testing.assert_array_equal(
                known.histogram[r],
                np.bincount(np.minimum(away[mine] / BIN_WIDTH, BINS - 1).astype(int), minlength=BINS),
            )
        assert regions["members"].to_numpy().sum() == record.n_activations == len(x_nd)
        assert record.coverage == pytest.approx((away <= dictionary.threshold).mean())
        assert record.skipped == 0 and record.n_documents == 600

    def test_stability_is_the_cosine_of_two_halves_of_the_documents(self, by_hand):
        dictionary, x_nd, tokens, ids, _ = by_hand
        from exemplar_partitioning.annotating.evidence import document_hash

        half = np.array([document_hash(document) % 2 for document, _, _ in tokens])
        assert 0.4 < half.mean() < 0.6
        for r in range(dictionary.k):
            row = dictionary.annotation.region(r)
            parts = [x_nd[(ids == r) & (half == h)] for h in (0, 1)]
            assert row["half"] == len(parts[0])
            if all(len(part) for part in parts):
                u = [sum(oracle.direction(x, dictionary.center.numpy()) for x in part) for part in parts]
                cosine = u[0] @ u[1] / np.linalg.norm(u[0]) / np.linalg.norm(u[1])
                assert row["stability"] == pytest.approx(cosine, abs=1e-5)
            else:
                assert row["stability"] is None

    def test_examples_are_the_nearest_and_farthest_one_a_document(self, by_hand):
        dictionary, _, tokens, ids, away = by_hand
        for r in range(dictionary.k):
            shown = dictionary.annotation.examples(r)
            assert len(shown) == dictionary.annotation.region(r)["examples"]
            for kind, count, sign in (("nearest", 8, 1), ("farthest", 4, -1)):
                best = {}
                for row in np.flatnonzero(ids == r):
                    document, position, _ = tokens[row]
                    key = (sign * away[row], position)
                    best[document] = min(best.get(document, key), key)
                expected = sorted(best.values())[:count]
                found = [row for row in shown if row["kind"] == kind]
                assert [row["rank"] for row in found] == list(range(len(expected)))
                np.testing.assert_allclose([row["distance"] for row in found], [abs(d) for d, _ in expected], atol=1e-6)
                assert len({row["document"] for row in found}) == len(found)
            drawn = [row for row in shown if row["kind"] == "random"]
            documents = {tokens[row][0] for row in np.flatnonzero(ids == r)}
            assert len(drawn) == min(8, len(documents)) and {row["document"] for row in drawn} <= documents

    def test_an_example_shows_its_token_in_context_with_distances(self, by_hand):
        dictionary, x_nd, tokens, _, _ = by_hand
        row_of = {(document, position): i for i, (document, position, _) in enumerate(tokens)}
        e_kd, c = dictionary.exemplars.numpy(), dictionary.center.numpy()
        for r in range(0, dictionary.k, 5):
            for shown in dictionary.annotation.examples(r):
                row = row_of[shown["document"], shown["position"]]
                assert shown["token_ids"][shown["at"]] == tokens[row][2][-1]
                assert shown["distances"][shown["at"]] == pytest.approx(shown["distance"], abs=2e-3)
                first = shown["position"] - shown["at"]
                for offset, distance in enumerate(shown["distances"]):
                    other = row_of[shown["document"], first + offset]
                    assert tokens[other][2][-1] == shown["token_ids"][offset]
                    assert distance == pytest.approx(
                        oracle.distance(oracle.direction(x_nd[other], c), e_kd[r]), abs=2e-3
                    )
                text = sentences(600, seed=1)[int(shown["document"].split(":")[1])]
                assert "".join(shown["tokens"]) in text

    def test_top_tokens_are_counted_and_lifted(self, by_hand):
        dictionary, _, tokens, ids, _ = by_hand
        at = Counter(int(window[-1]) for _, _, window in tokens)
        for r in range(dictionary.k):
            here = Counter(int(tokens[row][2][-1]) for row in np.flatnonzero(ids == r))
            row = dictionary.annotation.region(r)
            for entry in row["top_tokens"]:
                assert entry["count"] == here[entry["token_id"]]
                lift = entry["count"] / here.total() / (at[entry["token_id"]] / at.total())
                assert entry["lift"] == pytest.approx(lift) and lift > 1
            before = Counter(int(w[-2]) for w in (tokens[i][2] for i in np.flatnonzero(ids == r)) if len(w) > 2)
            for entry in row["before_tokens"]:
                assert entry["count"] == before[entry["token_id"]]

    def test_the_lens_is_what_a_step_from_the_centre_adds(self, by_hand, tiny_folder):
        dictionary = by_hand[0]
        loaded = load_model(str(tiny_folder))
        model, c = loaded.model, dictionary.center
        radii = [np.linalg.norm(by_hand[1][i] - c.numpy()) for i in dictionary.regions["arrival_index"].to_numpy()]

        def prediction(x_d):
            logits = model.lm_head(model.model.norm(x_d))
            logits[[0, 1, 2]] = -torch.inf
            return logits.softmax(0).double()

        with torch.inference_mode():
            base = prediction(c)
            for r in range(0, dictionary.k, 7):
                after = prediction(c + float(np.median(radii)) * dictionary.exemplars[r])
                part = (after * (after / base).log()).nan_to_num()
                part[after < after.topk(256).values[-1]] = -1  # chosen from the likeliest
                shown = dictionary.annotation.region(r)["lens_top"]
                expected = part.topk(len(shown))
                assert [entry["token_id"] for entry in shown] == expected.indices.tolist()
                for entry in shown:
                    i = entry["token_id"]
                    assert entry["probability"] == pytest.approx(float(after[i]), rel=1e-2)
                    assert entry["lift"] == pytest.approx(float(after[i] / base[i]), rel=1e-2) and entry["lift"] > 1
                    assert entry["token"] == loaded.tokenizer.decode([i])
                lost = (base * (base / after).log()).nan_to_num()
                lost[base < base.topk(256).values[-1]] = -1
                shown = dictionary.annotation.region(r)["lens_bottom"]
                assert [entry["token_id"] for entry in shown] == lost.topk(len(shown)).indices.tolist()
                assert all(entry["lift"] < 1 for entry in shown)


class TestExamplesDoNotDependOnOrder:
    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_any_grouping_keeps_the_same_rows(self, data):
        n, k, m = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
        rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
        region, document = rng.integers(0, k, n), rng.integers(0, 5, n).astype(np.uint64)
        key, position = rng.integers(0, 4, n), rng.permutation(n)
        columns = {"row": ((), np.dtype(np.int64))}

        def kept(order, cuts):
            best = BestRows(k, m, columns)
            for part in np.split(order, cuts):
                best.offer(
                    region[part], key[part], document[part], position[part], lambda got, part=part: {"row": part[got]}
                )
            return best

        one = kept(np.arange(n), [])
        many = kept(rng.permutation(n), np.sort(rng.integers(0, n + 1, 3)))
        np.testing.assert_array_equal(one.key, many.key)
        there = one.key != NONE
        np.testing.assert_array_equal(one.payload["row"][there], many.payload["row"][there])
        for r in range(k):
            best = {}
            for row in np.flatnonzero(region == r):
                candidate = (key[row], document[row], position[row], row)
                best[document[row]] = min(best.get(document[row], candidate), candidate)
            expected = [row for *_, row in sorted(best.values())[:m]]
            assert one.payload["row"][r][there[r]].tolist() == expected

    def test_keys_order_as_they_say(self):
        distance = np.array([0.0, 1e-300, 0.3, 0.30000001, 1.0, 2.0])
        assert (np.diff(ascending(distance)) > 0).all() and (np.diff(descending(distance)) < 0).all()
        drawn = shuffled(np.repeat(np.arange(100, dtype=np.uint64), 50), np.tile(np.arange(50), 100))
        assert len(np.unique(drawn)) == 5000 and drawn.min() >= 0 and drawn.max() < NONE
        assert abs(np.corrcoef(drawn, np.arange(5000))[0, 1]) < 0.05


def test_a_sample_does_not_depend_on_order():
    from types import SimpleNamespace

    rng = np.random.default_rng(0)
    x_nd, document = rng.standard_normal((500, 3)).astype(np.float32), rng.integers(0, 9, 500).astype(np.uint64)
    position = np.arange(500)
    x_nd[::7] = 1.0  # at the centre: without a direction

    def drawn(order, pieces, size):
        sample = Sample(size, torch.ones(3))
        for part in np.array_split(order, pieces):
            rows: Any = SimpleNamespace(document_n=document[part], position_n=position[part])
            sample.add(rows, torch.from_numpy(x_nd[part]))
        return sample.ordered

    there = x_nd[(x_nd != 1).any(axis=1)]
    ranked = there[np.argsort(shuffled(document, position)[(x_nd != 1).any(axis=1)])]
    for size in (40, 600):
        np.testing.assert_array_equal(drawn(np.arange(500), 1, size), ranked[:size])
        np.testing.assert_array_equal(drawn(rng.permutation(500), 13, size), ranked[:size])


def test_noise_has_the_mean_and_covariance_of_the_activations():
    x_nd = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)) @ torch.randn(4, 4) + 3
    drawn = _Noise([x_nd[:1000], x_nd[1000:]], seed=0).draw(200_000)
    torch.testing.assert_close(drawn.mean(dim=0), x_nd.mean(dim=0), atol=0.05, rtol=0.05)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(x_nd.T), atol=0.1, rtol=0.05)


def test_pair_counts_are_the_same_however_they_come():
    rng = np.random.default_rng(0)
    region, token = rng.integers(0, 5, 3000), rng.integers(-1, 9, 3000)
    one, many = PairCounts(5, 9), PairCounts(5, 9)
    one.add(region, token)
    for part in np.array_split(rng.permutation(3000), 7):
        many.add(region[part], token[part])
        many.arrays()  # which counts together
    for field, values in vars(one.characteristic(4)).items():
        np.testing.assert_array_equal(values, getattr(many.characteristic(4), field))
    counted = dict(zip(one.arrays()["pairs"].tolist(), one.arrays()["counts"].tolist(), strict=True))
    assert counted == Counter((region * 9 + token)[token >= 0].tolist())


def test_pairs_beyond_32_bits_are_counted():
    counts = PairCounts(2**20, 2**18)
    counts.add(np.array([2**20 - 1, 0]), np.array([2**18 - 1, 7]))
    found = counts.characteristic(1)
    assert found.token_p.tolist() == [7, 2**18 - 1] and found.length_k[[0, -1]].tolist() == [1, 1]


def test_distances_in_thousandths():
    distance = np.array([-1e-7, 0.0, 0.1234, 1.9996, 2.1, np.nan], np.float32)
    assert thousandths(distance).tolist() == [0, 0, 123, 2000, 2000, -1]


def test_what_is_only_frequent_is_not_characteristic():
    counts = PairCounts(2, 4)
    counts.add(np.zeros(1000, np.int64), np.repeat([0, 1, 2], [900, 95, 5]))
    counts.add(np.ones(1000, np.int64), np.repeat([0, 1, 2], [990, 5, 5]))
    found = counts.characteristic(3)
    assert found.length_k.tolist() == [1, 1] and found.token_p.tolist() == [1, 0]
    assert found.count_p.tolist() == [95, 990] and found.lift_p == pytest.approx([1.9, 0.99 / 0.945])


@pytest.mark.parametrize("family", FAMILIES)
def test_lens_of_the_last_activation_is_what_the_model_says(family):
    from exemplar_partitioning.models.sites import Site

    model = tiny(family)
    if family == "gemma3":
        model.config.final_logit_softcapping = 3.0  # which the lens must apply as well
    loaded = load_model(model, tokenizer=make_tokenizer())
    window = random_windows(1, longest=20)[0]
    last = Site(loaded.architecture.n_layers - 1, "resid_post")
    x_nd = Extractor(model, [last]).extract([window])[last]
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(window)[None]).logits[0]
    found = torch.cat(list(lens(loaded, x_nd)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    many = torch.cat(list(lens(loaded, x_nd.repeat(60, 1))))  # several batches, all but the first without the blocks
    torch.testing.assert_close(many, expected.repeat(60, 1), rtol=1e-4, atol=1e-4)
    with torch.inference_mode():  # and nothing is left behind
        torch.testing.assert_close(model(input_ids=torch.from_numpy(window)[None]).logits[0], expected)


class TestQuality:
    def test_inequality(self):
        assert inequality(np.array([5, 5, 5, 5])) == (pytest.approx(0), pytest.approx(4))
        gini, effective = inequality(np.array([0, 0, 0, 12]))
        assert (gini, effective) == (pytest.approx(0.75), pytest.approx(1))

    def test_metrics_by_hand(self):
        e_kd = torch.eye(3)[:2]
        dictionary = ep.Dictionary(torch.zeros(3), e_kd, 0.4)
        x_nd = torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [1.0, 0, 1.0], [0, 0, 0]])
        found = metrics(dictionary, x_nd)
        away = 1 - np.sqrt(0.5)
        assert found.coverage == pytest.approx(1) and found.cohesion == pytest.approx(away / 3, abs=1e-6)
        assert found.nearest_inter == 1 and found.separation_ratio == 2.5 and found.max_similarity == 0
        assert found.silhouette == pytest.approx(np.mean([1 - away / 2, 1]), abs=1e-6)

    def test_nearest_other_of_a_single_exemplar(self):
        assert nearest_other(torch.eye(3)[:1])[1] == -1

    def test_nearest_other_of_many(self):
        e_kd = torch.nn.functional.normalize(torch.randn(700, 8, generator=torch.Generator().manual_seed(0)), dim=1)
        cosine = (e_kd.double() @ e_kd.double().T).fill_diagonal_(-1)
        distance_k, largest = nearest_other(e_kd)
        np.testing.assert_allclose(distance_k, 1 - cosine.amax(dim=1), atol=1e-6)
        assert largest == pytest.approx(float(cosine.max()), abs=1e-6)

    def test_structure_shows_against_both_nulls(self, annotated):
        q = ep.load(annotated, site="resid_post.1", percentile=5).annotation.record.quality
        assert q.dictionary.k == q.random_exemplars.k
        assert q.dictionary.separation_ratio > 1 and q.gaussian.separation_ratio > 1  # by the leader rule, noise or not
        assert q.random_exemplars.separation_ratio < 1
        assert q.dictionary.coverage > q.gaussian.coverage


def _annotate(folder, text, model):
    torch.set_num_threads(1)
    ep.annotate(folder, [text], model=model, checkpoint_seconds=0.0)


def evidence(folder):
    return {name: data for name, data in tree(folder).items() if "annotation" in name}


def test_killed_at_any_instant_ends_in_the_same_bytes(built, annotated, tiny_folder, text_file, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exemplar_partitioning.annotating", "transformers.models.llama.modeling_llama"])

    def start(out):
        process = context.Process(target=_annotate, args=(tmp_path / out, text_file, str(tiny_folder)))
        process.start()
        return process

    for out in ("first", "whole"):  # the first also starts the server that the others are forked from
        shutil.copytree(built, tmp_path / out)
        begun = time.monotonic()
        process = start(out)
        process.join()
        assert process.exitcode == 0
        took = time.monotonic() - begun
    rng, killed, folders = random.Random(0), 0, ["whole"]
    while killed < 4:  # many more: `python -m benchmarks.faults killed`
        folders.append(f"killed-{len(folders)}")
        shutil.copytree(built, tmp_path / folders[-1])
        while True:
            process = start(folders[-1])
            process.join(rng.uniform(0.1, took))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            killed += 1
        missing = [d for d in (tmp_path / folders[-1]).glob("*/p*") if not (d / "annotation").is_dir()]
        assert process.exitcode == 0 or not missing  # killed after the last file, it says that all is there
    assert all(evidence(tmp_path / folder) == evidence(annotated) for folder in folders)
    assert not any((tmp_path / folder / ".annotate" / "settings.json").exists() for folder in folders)


def test_stop_saves_and_the_same_call_goes_on(built, annotated, tiny_folder, text_file, tmp_path):
    shutil.copytree(built, tmp_path / "out")
    asked = iter(range(100))
    with pytest.raises(Interrupted, match="repeat the command"):
        ep.annotate(tmp_path / "out", [text_file], model=str(tiny_folder), stop=lambda: next(asked) > 25)
    events = []
    ep.annotate(tmp_path / "out", [text_file], model=str(tiny_folder), on_event=events.append)
    assert events[0].kind == "resume" and events[0].tokens > 0
    assert evidence(tmp_path / "out") == evidence(annotated)


def test_groups_of_sites_give_the_bytes_of_all_at_once(tiny_folder, text_file, tmp_path, monkeypatch):
    built = tmp_path / "built"
    ep.build(str(tiny_folder), [text_file], out=built, **BUILD, keep_activations="calibration")
    given = {"text": [text_file], "model": str(tiny_folder)}
    for out in ("whole", "groups", "stopped"):
        shutil.copytree(built, tmp_path / out)
    ep.annotate(tmp_path / "whole", **given)
    monkeypatch.setattr("exemplar_partitioning.annotating.run._GROUP_BYTES", 1)
    kinds = []
    ep.annotate(tmp_path / "groups", **given, on_event=lambda event: kinds.append(event.kind))
    assert kinds.count("start") > 1 and kinds.count("done") == 1 and kinds[-1] == "done"
    asked = iter(range(1000))
    until = kinds.index("lens") + 3  # into the second group
    with pytest.raises(Interrupted):
        ep.annotate(tmp_path / "stopped", **given, stop=lambda: next(asked) > until)
    assert not evidence(tmp_path / "stopped") or not list((tmp_path / "stopped").glob("*/*/annotation"))
    ep.annotate(tmp_path / "stopped", **given)
    assert evidence(tmp_path / "whole") == evidence(tmp_path / "groups") == evidence(tmp_path / "stopped")
    assert not (tmp_path / "groups" / "activations").exists()


def test_annotating_leaves_the_dictionary_as_it_was(built, annotated):
    assert {n: d for n, d in tree(annotated).items() if "annotation" not in n} == tree(built)
    assert not (annotated / ".annotate").exists()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_merge_to_the_whole(built, tiny_folder, text_file, order):
    """L4: chunks dealt out to three, merged in any order, are what one gathers."""
    dictionaries = [ep.load(built, site=f"resid_post.{layer}", percentile=5) for layer in (0, 1)]
    loaded = load_model(str(tiny_folder))
    extractor = Extractor(loaded.model, resolve_sites("resid_post.0,resid_post.1", loaded.architecture))
    given = [(d.config.site.name, d) for d in dictionaries], loaded.architecture.vocab_size
    whole, merged, parts = Gathered(*given), Gathered(*given), [Gathered(*given) for _ in order]
    source = read_documents([text_file], field="text")
    for i, chunk in enumerate(text_chunks(source, loaded, dictionaries[0].config.text.windowing, 10**9)):
        for gathered in (whole, parts[i % 3]):
            x = {str(site): x_nd for site, x_nd in extract(extractor, chunk, lambda _: None).items()}
            gathered.add(ChunkRows(chunk), x)
    for part in order:
        merged.merge(parts[part].arrays())
    expected, found = whole.arrays(), merged.arrays()
    assert found.keys() == expected.keys()
    for name in expected:
        if "/" not in name:  # the places of a sample are in the order of coming
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for site, sample in whole.samples.items():
        np.testing.assert_array_equal(merged.samples[site].ordered, sample.ordered)


def test_one_dictionary_alone_gets_the_same_evidence(built, annotated, tiny_folder, text_file, tmp_path):
    shutil.copytree(built / "resid_post.1" / "p30", tmp_path / "p30")
    (found,) = ep.annotate(tmp_path / "p30", [text_file], model=str(tiny_folder))
    same = ep.load(annotated, site="resid_post.1", percentile=30)
    assert found.annotation.regions.equals(same.annotation.regions)


class TestRefused:
    def test_not_annotated_says_how(self, built):
        with pytest.raises(EPError, match=r"not annotated.*ep annotate"):
            ep.load(built, site="resid_post.1", percentile=30).annotation  # noqa: B018

    def test_annotated_already(self, annotated, tiny_folder, text_file):
        before = tree(annotated)
        with pytest.raises(EPError, match=r"annotated already.*--replace"):
            ep.annotate(annotated, [text_file], model=str(tiny_folder))
        assert tree(annotated) == before

    def test_replaced_when_asked(self, annotated, tiny_folder, text_file, tmp_path):
        shutil.copytree(annotated, tmp_path / "out")
        found = ep.annotate(tmp_path / "out", [text_file], model=str(tiny_folder), max_tokens=3000, replace=True)
        assert found[0].annotation.record.n_tokens <= 3000

    def test_what_cannot_be_read_is_replaced_too(self, annotated, tiny_folder, text_file, tmp_path):
        shutil.copytree(annotated, tmp_path / "out")
        for name in ("annotation.json", "regions.parquet"):
            for path in (tmp_path / "out").glob(f"*/p5/annotation/{name}"):
                path.write_bytes(b"{")
        with pytest.raises(EPError, match=r"annotated already.*--replace"):
            ep.annotate(tmp_path / "out", [text_file], model=str(tiny_folder))
        ep.annotate(tmp_path / "out", [text_file], model=str(tiny_folder), replace=True)
        assert evidence(tmp_path / "out") == evidence(annotated)

    @pytest.mark.parametrize("swaps", [True, False])
    def test_replacing_killed_anywhere_leaves_one_or_the_other(
        self, annotated, tiny_folder, text_file, tmp_path, monkeypatch, swaps
    ):
        """Killed at the n-th step of the exchange; `swaps`: whether the system exchanges two names in one step."""
        whole = tmp_path / "whole"
        given = {"text": [text_file], "model": str(tiny_folder), "max_tokens": 3000, "replace": True}
        shutil.copytree(annotated / "resid_post.1", whole / "resid_post.1")
        old = evidence(whole)
        ep.annotate(whole, **given)
        new, swap, rename = evidence(whole), group._swap, Path.rename
        for step in range(4):
            out, steps = tmp_path / f"{step}", iter(range(100))
            shutil.copytree(annotated / "resid_post.1", out / "resid_post.1")

            def killed(do, step=step, steps=steps):
                if next(steps) == step:
                    raise KeyboardInterrupt
                return do()

            def renamed(self, target, killed=killed):
                moves = ".annotation" in self.name or self.name == "annotation"
                return (
                    killed(lambda: rename(self, target))
                    if moves and ".partial" not in self.name
                    else rename(self, target)
                )

            monkeypatch.setattr(group, "_swap", lambda a, b, killed=killed: killed(lambda: swaps and swap(a, b)))
            monkeypatch.setattr(Path, "rename", renamed)
            try:
                ep.annotate(out, **given)
            except KeyboardInterrupt:
                places = sorted(out.glob("*/p*"))
                assert not swaps or all((place / "annotation" / "annotation.json").is_file() for place in places)
                for place in places:
                    if (place / "annotation").is_dir():
                        files = {
                            f"{place.relative_to(out)}/annotation/{n}": b for n, b in tree(place / "annotation").items()
                        }
                        assert files.items() <= old.items() or files.items() <= new.items()
            monkeypatch.undo()
            ep.annotate(out, **given)
            assert evidence(out) == new and not list(out.glob("*/p*/.annotation*"))

    def test_text_that_cannot_be_found_by_name(self, built, tiny_folder):
        with pytest.raises(EPError, match=r"say where text is"):
            ep.annotate(built, model=str(tiny_folder))

    def test_another_model(self, built, text_file, tiny_folder, tmp_path):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(tiny_folder)
        with torch.no_grad():
            model.lm_head.weight.add_(1)
        model.save_pretrained(tmp_path / "other")
        AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "other")
        with pytest.raises(EPError, match=r"other is not the model.*weights .* here, .* there"):
            ep.annotate(built, [text_file], model=str(tmp_path / "other"))
        assert not (built / ".annotate").exists()

    @pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs another user, or permissions")
    def test_a_folder_that_is_read_only(self, built, tiny_folder):
        """Root may write anywhere, so as root this is tried as nobody, in a folder that nobody may enter."""
        loaded, mine = ep.load_model(str(tiny_folder)), os.geteuid()
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "out"
            shutil.copytree(built, out)
            for path in [Path(place), *Path(place).rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
            try:
                os.seteuid(65534 if mine == 0 else mine)
                with pytest.raises(ResourceError, match=r"cannot write .*choose a folder that you may write to"):
                    ep.annotate(out, iter(["the old dog"]), model=loaded)
            finally:
                os.seteuid(mine)
                for path in [Path(place), *Path(place).rglob("*")]:
                    path.chmod(0o755)

    def test_text_without_tokens(self, built, tiny_folder, tmp_path):
        shutil.copytree(built, tmp_path / "out")
        (tmp_path / "empty.txt").write_text("")
        with pytest.raises(EPError, match="gave no text"):
            ep.annotate(tmp_path / "out", [tmp_path / "empty.txt"], model=str(tiny_folder))

    @pytest.mark.parametrize("name", ["annotation.json", "regions.parquet", "examples.parquet", "means.safetensors"])
    def test_damaged_files(self, annotated, tmp_path, name):
        folder = tmp_path / "d"
        shutil.copytree(annotated / "resid_post.1" / "p30", folder)
        data = bytearray((folder / "annotation" / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "annotation" / name).write_bytes(data)
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            known = ep.load(folder).annotation
            known.examples(0), known.mean_directions
        (folder / "annotation" / name).unlink()
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            known = ep.load(folder).annotation
            known.examples(0), known.mean_directions

    def test_an_annotation_of_another_dictionary(self, annotated, tmp_path):
        shutil.copytree(annotated / "resid_post.1" / "p30", tmp_path / "d")
        shutil.rmtree(tmp_path / "d" / "annotation")
        shutil.copytree(annotated / "resid_post.1" / "p5" / "annotation", tmp_path / "d" / "annotation")
        with pytest.raises(DataError, match="was made for the dictionary"):
            ep.load(tmp_path / "d").annotation  # noqa: B018


def test_command_line(built, tiny_folder, text_file, tmp_path, capsys):
    from typer.testing import CliRunner

    from exemplar_partitioning.cli import app

    shutil.copytree(built, tmp_path / "out")
    command = ["annotate", str(tmp_path / "out"), str(text_file), "--model", str(tiny_folder)]
    result = CliRunner().invoke(app, [*command, "--max-tokens", "4_000", "--json"], catch_exceptions=False)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert (
        events[0]["event"] == "annotate-start"
        and events[-1]["event"] == "annotate-done"
        and events[-1]["tokens"] <= 4000
    )
    result = CliRunner().invoke(app, [*command, "--replace"], catch_exceptions=False)
    assert "4 dictionaries annotated" in result.stdout and "ep explore" in result.stdout


def test_committed_json_schema_is_the_models(annotated):
    import jsonschema

    from exemplar_partitioning.folder import annotation as folder

    committed = json.loads((Path(__file__).parents[2] / "docs" / "annotation.schema.json").read_bytes())
    assert committed == folder.json_schema(), "run `make schema` and commit docs/annotation.schema.json"
    for found in annotated.glob("*/p*/annotation/annotation.json"):
        jsonschema.validate(json.loads(found.read_bytes()), committed)
