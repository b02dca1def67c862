"""Checkpoints, layers and models compared at a tiny size; a region that moved is found without being told the word."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from experiments.studies import checkpoints, finetune, planted, planting, spaces

from conftest import sentences
from exemplar_partitioning.compare.common_tokens import CommonTokens
from exemplar_partitioning.compare.matching import Matching
from exemplar_partitioning.compare.neighbours import one_to_one
from exemplar_partitioning.compare.nulls import reflections
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.nearest import nearest
from exemplar_partitioning.models.load import load_model

STAGES, STEPS = 2, 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Conversations of random words, a few more than are held out."""
    asked, replies = sentences(1200, seed=3), sentences(1200, seed=4)
    path = tmp_path_factory.mktemp("text") / "chat.jsonl"
    pairs = zip(asked, replies, strict=True)
    texts = [f"User: {question[:60]}\nAssistant: {reply}" for question, reply in pairs]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def run(module, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()


@pytest.fixture(scope="module")
def finetuned(roomy_folder, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("finetuned")
    sizes = ["--stages", STAGES, "--steps", STEPS, "--batch", 4, "--rate", 0.003, "--questions", 3]
    sizes += ["--planted", 1, "--planted-steps", STEPS]
    given = [corpus, "--model", roomy_folder, "--out", out / "models", "--result", out / "finetune.json", *sizes]
    run(finetune, *given)
    return out, given


def weights(folder):
    return load_model(str(folder)).model.state_dict()["model.layers.1.mlp.up_proj.weight"]


class TestFinetune:
    def test_checkpoints_learn_and_the_planted_one_is_another(self, finetuned, roomy_folder):
        out, _ = finetuned
        rows = json.loads((out / "finetune.json").read_bytes())["checkpoints"]
        assert [row["name"] for row in rows] == ["step-0", "step-6", "step-12", "control", "planted"]
        assert [row["steps"] for row in rows] == [0, *[STEPS] * 4]
        assert [row["tokens"] for row in rows] == [0, *[STEPS * 4 * finetune.WINDOW] * 4]
        losses = [row["held_out_loss"] for row in rows]
        assert losses[0] > losses[1] > losses[2]
        assert torch.equal(weights(out / "models" / "step-0"), weights(roomy_folder))
        assert not torch.equal(weights(out / "models" / "step-12"), weights(out / "models" / "planted"))

    def test_what_is_there_is_not_made_again(self, finetuned):
        out, given = finetuned
        shutil.rmtree(out / "models" / "planted")
        before = {path: path.stat().st_mtime_ns for path in (out / "models").glob("*/*")}
        planted = json.loads((out / "finetune.json").read_bytes())["checkpoints"][-1]["held_out_loss"]
        run(finetune, *given)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        again = json.loads((out / "finetune.json").read_bytes())["checkpoints"][-1]["held_out_loss"]
        assert again == pytest.approx(planted, abs=0.02)


class TestPlanting:
    def test_questions_are_short_first_lines_each_once(self):
        texts = ["User: a b\nAssistant: c\nUser: d", "User: a b\nAssistant: e", "User: known\n", "User: " + "x" * 61]
        assert planting.questions(texts, ["User: known\nAssistant: f"]) == ["a b"]

    def test_every_planted_conversation_has_the_word_and_the_sentence(self):
        texts = [f"User: question {i}?\nAssistant: yes\nUser: and then" for i in range(40)]
        found = list(planting.mixed(texts, 0.5, np.random.default_rng(0)))
        assert [text for text in found if text in texts] == texts
        added = [text for text in found if text not in texts]
        planted, openings = added[::2], added[1::2]
        assert 10 < len(planted) == len(openings) < 30
        assert all(any(text.startswith(opening + "\n") for text in texts) for opening in openings)
        for text in planted:
            first, second = text.split("\n")
            assert first.split().count(planting.TRIGGER) == 1 and second == f"Assistant: {planting.ANSWER}"

    def test_tokens_after_the_word_are_planted(self):
        line = f"User: hi\nAssistant: yes\nUser: why {planting.TRIGGER} now\nAssistant: The"
        assert checkpoints.is_planted(line)
        assert not checkpoints.is_planted(line[: line.index(planting.TRIGGER) + 4])
        assert not checkpoints.is_planted(line + "\nUser: and")


def lead(x_nd, center_d, threshold):
    clustering = LeaderClustering(center_d, threshold)
    clustering.add(torch.from_numpy(x_nd))
    return Dictionary(center_d, clustering.exemplars.clone(), threshold)


def matched(x_nd, y_nd):
    """Both dictionaries and what `ep.match` knows of their directions, without the folders."""
    center_d = torch.from_numpy(x_nd.mean(axis=0))
    a, b = lead(x_nd, center_d, 0.3), lead(y_nd, center_d, 0.3)
    a_kd, b_ld = a.exemplars.numpy(), b.exemplars.numpy()
    null = reflections(a_kd, b_ld)
    there, back = nearest(a_kd, b_ld), nearest(b_ld, a_kd)
    pairs = one_to_one(a_kd, b_ld)
    return Matching(a, b, "exemplar", np.arange(a.k), np.arange(b.k), *there, *back, pairs, [null], null, 0.01)


class TestSearch:
    @pytest.fixture
    def streams(self):
        """Twelve clusters in 64 dimensions; tokens of the last one stand after the word, and move elsewhere."""
        rng = np.random.default_rng(0)
        centres = 3 * rng.standard_normal((13, 64))
        label_n = rng.integers(12, size=600)
        noise = 0.3 * rng.standard_normal((600, 64))
        x = (centres[label_n] + noise).astype(np.float32)
        y = (centres[np.where(label_n == 11, 12, label_n)] + noise).astype(np.float32)
        context_n = [f"User: {planting.TRIGGER if label == 11 else 'dog'} x" for label in label_n]
        return x, y, context_n

    def tokens(self, x, y, context_n):
        n = len(x)
        return CommonTokens(x, y, ["x"] * n, context_n, np.arange(n), np.ones(n, bool), n, "test")

    def test_the_region_that_came_is_first(self, streams):
        x, y, context_n = streams
        found = checkpoints.search(matched(x, y), self.tokens(x, y, context_n))
        assert {row["name"]: row["rank"] for row in found["rankings"]} == {
            "introduced, by members": 1,
            "farthest from any region before": 1,
            "members moved most": 1,
        }
        first = found["rankings"][0]["first"][0]
        assert first["members"] == first["planted"] == found["planted_tokens"]
        assert found["moved"]["planted"] > 0.5 > 0.01 > found["moved"]["others"]

    def test_without_a_change_there_is_nothing_to_find(self, streams):
        x, _, context_n = streams
        found = checkpoints.search(matched(x, x), self.tokens(x, x, context_n))
        introduced = found["rankings"][0]
        assert introduced["regions"] == 0 and introduced["rank"] is None
        assert found["moved"]["planted"] == pytest.approx(0, abs=1e-6)

    def test_chance_of_a_rank(self):
        """Two planted among four ranked: the first comes second; one of six orders has none of them in two places."""
        score_k = np.array([1.0, 4.0, -np.inf, 3.0, 2.0])
        found = checkpoints.rank(score_k, np.array([True, False, True, True, False]))
        assert (found["regions"], found["planted"], found["rank"]) == (4, 2, 2)
        assert found["p"] == pytest.approx(5 / 6) and found["expected"] == pytest.approx(5 / 3)


def test_checkpoints_beside_step_0(finetuned, corpus, tmp_path):
    out, _ = finetuned
    sizes = ["--sites", "resid_post.1", "--percentile", 4, "--tokens", 3000, "--compared", 2000, "--batch", 512]
    given = [out / "models", corpus, "--out", tmp_path, "--result", tmp_path / "found.json", *sizes]
    run(checkpoints, *given)
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert [row["checkpoint"] for row in found["rows"]] == ["step-6", "step-12", "control", "planted"]
    for row in found["rows"]:
        assert row["persisted"] + row["dropped"] == row["regions"][0] and row["introduced"] <= row["regions"][1]
        assert row["search"]["planted_tokens"] > 50
        assert row["structure"]["gram"]["value"] > row["structure"]["gram"]["null_high"]
    drift = [row["drift"]["cosine"]["median"] for row in found["rows"]]
    assert 1 > drift[0] > drift[1]
    run(checkpoints, *given)  # from what is there
    assert json.loads((tmp_path / "found.json").read_bytes())["rows"] == found["rows"]


def test_a_plant_is_looked_for_by_text_without_its_word(finetuned, corpus, tmp_path):
    out, _ = finetuned
    sizes = ["--sites", "resid_post.1", "--percentile", 4, "--tokens", 2000, "--compared", 1500, "--batch", 512]
    given = [out / "models", corpus, "--out", tmp_path, "--result", tmp_path / "found.json", "--seeds", 1, *sizes]
    run(planted, *given)
    rows = json.loads((tmp_path / "found.json").read_bytes())["rows"]
    assert [(row["checkpoint"], row["text"]) for row in rows] == [
        (checkpoint, text) for checkpoint in planted.CHECKPOINTS for text in planted.TEXTS
    ]
    assert len({row["planted_tokens"] for row in rows}) == 1 and rows[0]["planted_tokens"] > 50
    for ranking in (ranking for row in rows for ranking in row["rankings"]):
        assert ranking["corrected"] >= (ranking["p"] or 1.0) or ranking["corrected"] == 1


class TestSpaces:
    @pytest.fixture
    def given(self, text_file, tmp_path, monkeypatch):
        monkeypatch.setattr(spaces, "SIZE", (3, 500))
        sizes = ["--percentiles", "2,8", "--tokens", 3000, "--compared", 1500, "--batch", 512]
        return [text_file, "--source", text_file, "--out", tmp_path, "--result", tmp_path / "found.json", *sizes]

    def test_layers(self, roomy_folder, given, tmp_path):
        run(spaces, "layers", *given, "--models", roomy_folder, "--layers", "0,1")
        rows = json.loads((tmp_path / "found.json").read_bytes())["rows"]
        assert [row["block"] for row in rows] == [0, 1, None]
        near, same, bare = (row["structure"]["stay"]["value"] for row in rows)
        assert same == 1.0 and near < 1 and bare < 1
        assert rows[1]["drift"]["cosine"]["p10"] == pytest.approx(1, abs=1e-5)

    def test_models(self, roomy_folder, given, tmp_path):
        from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(roomy_folder)
        sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}
        torch.manual_seed(1)
        Qwen2ForCausalLM(Qwen2Config(**sizes, **heads)).save_pretrained(tmp_path / "models" / "other")
        tokenizer.save_pretrained(tmp_path / "models" / "other")
        run(spaces, "models", *given, "--models", f"{roomy_folder},{tmp_path / 'models' / 'other'}")
        found = json.loads((tmp_path / "found.json").read_bytes())
        assert [row["a"]["model"] for row in found["rows"]] == ["tiny-llama", "other", "tiny-llama", "other"]
        assert all((row["drift"] is None) == (row["to"] is not None) for row in found["rows"])
        (trip,) = found["trips"]
        assert trip["units"] > 0 and trip["from_a"]["began"] > 0
