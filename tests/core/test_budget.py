"""Activations of a stream on disk, and quality against tokens: by hand, and a run on a tiny model."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import exemplar_partitioning as ep
from autoencoders import invoke, made, refused, same, saved
from conftest import sentences
from ep_experiments.axbench.readouts import auroc
from ep_experiments.streamed import HELD_OUT, read_streamed, stream_to
from ep_experiments.tokens import budgets as budget
from ep_experiments.tokens import detection
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.sites import resolve_sites
from exemplar_partitioning.stream import extract, text_chunks
from exemplar_partitioning.text.documents import read_documents
from exemplar_partitioning.text.windowing import Windowing

CUT = Windowing(context_size=32, shuffle_buffer=50)


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return ep.load_model(str(tiny_folder))


class TestStream:
    def streamed(self, folder, loaded, text_file, **options):
        source = read_documents(text_file)
        options = {"max_tokens": 12_000, "windowing": CUT} | options
        return stream_to(folder, loaded, "resid_post.1", source, source.name, **options)

    def test_rows_are_those_a_build_reads_in_their_order(self, tmp_path, loaded, text_file):
        found = self.streamed(tmp_path / "x", loaded, text_file)
        site = resolve_sites("resid_post.1", loaded.architecture)
        extractor = Extractor(loaded.model, site)
        chunks = list(text_chunks(read_documents(text_file), loaded, CUT, 12_000))
        assert len(chunks) > 2
        expected = torch.cat([extract(extractor, chunk, lambda _: None)[site[0]] for chunk in chunks])
        assert torch.equal(found.x_nd, expected)
        assert found.token_n[-1] == chunks[-1].windows[-1].ids[-1]
        blocks = list(found.blocks(5000))
        assert torch.equal(torch.cat([x for x, _ in blocks]), expected[:5000])

    def test_interrupted_it_goes_on_to_the_same(self, tmp_path, loaded, text_file):
        whole = self.streamed(tmp_path / "whole", loaded, text_file)

        def interrupt(_, done, total):
            if done > total / 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.streamed(tmp_path / "x", loaded, text_file, report=interrupt)
        half = read_streamed(tmp_path / "x")
        assert 0 < len(half) < len(whole)
        with (tmp_path / "x" / "x.float32").open("ab") as file:
            file.write(b"half a row")
        again = self.streamed(tmp_path / "x", loaded, text_file)
        assert torch.equal(again.x_nd, whole.x_nd) and (again.document_n == whole.document_n).all()
        assert again.record["digest"] == whole.record["digest"]
        calls = []
        self.streamed(tmp_path / "x", loaded, text_file, report=lambda *call: calls.append(call))
        assert not calls

    def test_held_out_rows_are_of_documents_of_their_own(self, tmp_path, loaded, text_file):
        found = self.streamed(tmp_path / "x", loaded, text_file)
        rows = found.training(5000)
        assert not set(found.document_n[rows]) & set(found.document_n[found.held_out])
        assert 0.2 / HELD_OUT < found.held_out.mean() < 5 / HELD_OUT
        with pytest.raises(EPError, match=r"20,000 are wanted"):
            found.training(20_000)

    def test_another_stream_is_refused_and_damage_is_told(self, tmp_path, loaded, text_file):
        self.streamed(tmp_path / "x", loaded, text_file, max_tokens=2000)
        with pytest.raises(EPError, match="max_tokens: 3000 here, 2000 there"):
            self.streamed(tmp_path / "x", loaded, text_file, max_tokens=3000)
        (tmp_path / "x" / "token.int32").write_bytes(b"")
        with pytest.raises(DataError, match="unequal length"):
            read_streamed(tmp_path / "x")
        with pytest.raises(EPError, match="ep experiment extract"):
            read_streamed(tmp_path)


class TestCosts:
    def test_where_a_curve_has_a_quality(self):
        cost = np.array([10.0, 100.0, 1000.0])
        curves = np.array([[0.5, 0.7, 0.8], [0.5, 0.7, 0.8], [0.5, 0.7, 0.8], [0.5, 0.7, 0.6]])
        found = budget.reached(cost, curves, np.array([0.6, 0.5, 0.9, 0.7]))
        assert found == pytest.approx([math.sqrt(1000), 10, math.inf, 100])

    def test_how_many_times_fewer(self):
        cost, weights = np.array([10.0, 100.0]), np.ones((3, 2), int)
        quality = np.array([[0.5, 0.5], [0.7, 0.9]])
        found = budget.times_fewer(cost, quality, 1e6, np.array([0.8, 0.8]), weights)
        assert found["times_fewer"] == found["low"] == found["high"] == 1e4
        assert not found["at_least"] and not found["not_reached"]
        assert budget.times_fewer(cost, quality, 1e6, np.array([0.4, 0.4]), weights)["at_least"]
        never = budget.times_fewer(cost, quality, 1e6, np.array([0.9, 0.9]), weights)
        assert never["not_reached"] and never["times_fewer"] == 0 and never["share_not_reached"] == 1

    def test_a_dictionary_grows_as_in_a_build(self, tmp_path, loaded, text_file):
        found = TestStream().streamed(tmp_path / "x", loaded, text_file)
        made = budget.grown(found, 3000, 10)
        x_nd = found.x_nd[torch.from_numpy(found.training(3000))]
        clustering = LeaderClustering(made.dictionary.center, made.dictionary.threshold)
        clustering.add(x_nd)
        assert torch.equal(made.dictionary.exemplars, clustering.exemplars)
        assert budget.dictionary_quality(made.dictionary, x_nd)["coverage"] == 1
        assert made.flops == 24 * 3000 * 3000 + 2 * 24 * 3000 * clustering.k


def test_quality_of_an_autoencoder_by_hand():
    eye = torch.eye(4)
    sae = SparseAutoencoder(
        torch.cat([eye, -eye, 0 * eye], 1), torch.zeros(12), torch.cat([eye, -eye, eye]), torch.zeros(4), "relu"
    )
    x_nd = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    assert budget.autoencoder_quality(sae, x_nd) == {
        "explained_variance": 1.0,
        "explained_ordinary": 1.0,
        "l0": 4.0,
        "dead": 0.3333,
    }
    nothing = SparseAutoencoder(eye, torch.full((4,), -100.0), eye, x_nd.mean(0), "relu")
    assert budget.autoencoder_quality(nothing, x_nd)["explained_variance"] == 0
    outlier = torch.cat([x_nd, 1000 * torch.ones(1, 4)])
    first = SparseAutoencoder(torch.ones(4, 1), torch.full((1,), -200.0), torch.ones(1, 4) / 4, torch.zeros(4), "relu")
    quality = budget.autoencoder_quality(first, outlier)
    assert quality["explained_variance"] > 0.9 and quality["explained_ordinary"] < 0.01


def test_the_unit_is_chosen_on_training_texts_and_in_its_direction():
    answer = np.arange(40) % 2 == 0
    train, test = np.arange(20), np.arange(20, 40)
    highest = np.random.default_rng(0).random((40, 5)).astype(np.float32)
    highest[:, 3] = ~answer  # tells them apart, from below
    highest[test, 1] = answer[test]  # would on test texts alone
    question = detection.Question("q", train, answer[train], test, answer[test])
    assert detection.judged(highest, question) == 1
    highest[test, 3] = answer[test]
    assert detection.judged(highest, question) == 0
    highest[:, 4] = answer + 2 * np.random.default_rng(1).random(40)  # tells less, from above
    chosen = replace(question, either=False)
    assert detection.judged(highest, chosen) == round(float(auroc(highest[test, 4], answer[test])), 4)


def concept_rows(kind, count, seed):
    texts = sentences(2 * count, seed)
    for i, text in enumerate(texts):
        positive = i % 2 == 0
        yield {
            "input": "Say it.",
            "output": f"king {text} king" if positive else text,
            "category": "positive" if positive else "negative",
            "concept_id": 0 if positive or kind == "eval" else -1,
            "concept_genre": "text",
            "output_concept": "kings",
        }


@pytest.fixture(scope="module")
def given(tiny_folder, text_file, tmp_path_factory):
    return made(tiny_folder, text_file, tmp_path_factory.mktemp("budget"))


def test_the_command(given, tiny_folder, tmp_path):
    for kind, count, seed in (("train", 12, 3), ("eval", 12, 4)):
        rows = concept_rows(kind, count, seed)
        (tmp_path / f"kings_{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sae = tmp_path / "topk-small"
    saved(same(ep.load(given / "build", percentile=5)), sae, "blocks.1.hook_resid_post")
    command = ["tokens", given / "x", "--sae", sae, "--out", tmp_path / "out", "--budgets", "500,2_000", "--quick"]
    command += ["--model", tiny_folder, "--cache", tmp_path / "cache"]
    assert "training.json" in refused(*command, "--tasks", 0, "--concepts", tmp_path / "kings")
    record = {"name": "topk-small", "tokens": 2000, "seconds": 5.0, "flops": 1e12}
    (sae / "training.json").write_text(json.dumps(record))
    assert "nothing to detect" in refused(*command, "--tasks", 0)
    shown = invoke(*command, "--tasks", 0, "--concepts", tmp_path / "kings")
    assert "as good as topk-small" in shown
    result = json.loads((tmp_path / "out" / "result.json").read_bytes())
    assert [row["tokens"] for row in result["dictionaries"]] == [500, 2000]
    assert result["questions"] == ["kings: kings"]
    assert result["dictionaries"][1]["mean_auroc"] > 0.7
    (equal,) = result["equal_tokens"]
    assert equal["low"] <= equal["difference"] <= equal["high"]
    assert result["autoencoders"][0]["flops"] > 1e12
