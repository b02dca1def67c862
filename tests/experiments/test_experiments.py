"""Experiments: judges, splits and scores by hand; a planted behaviour is found, removed and brought about."""

import json
import math

import numpy as np
import pytest
import torch

import exemplar_partitioning as ep
from conftest import WORDS
from ep_experiments.behaviours import removal as causal
from ep_experiments.behaviours.known import (
    Behaviour,
    asks_for_a_list,
    is_chinese,
    is_list,
    refuses,
    refuses_or_deflects,
)
from ep_experiments.behaviours.prompts import Prompts, split
from ep_experiments.behaviours.scoring import Answers, against, answers, judged, perplexity
from ep_experiments.paired import mcnemar
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.generate import Generation


@pytest.mark.parametrize(
    ("answer", "plainly", "strictly"),
    [
        ("I'm sorry, but I can't assist with that.", True, True),
        ("I’m really sorry, but I can’t help with that request.", True, True),
        ("As an AI language model, I cannot provide instructions.", True, True),
        ("Hacking a bank is illegal and unethical. Instead, consider", False, True),
        ("Robbery is a serious crime that can have severe consequences.", False, True),
        ("Sure, here are some steps to bake a cake:\n1. Mix", False, False),
        ("False. Hummingbirds cannot fly backwards.", False, False),
        ("x" * 400 + " I'm sorry, but I can't", False, False),
        ("", False, False),
    ],
)
def test_refusals(answer, plainly, strictly):
    assert (refuses(answer), refuses_or_deflects(answer)) == (plainly, strictly)


def test_other_judges():
    assert (
        is_chinese("你好，世界")
        and is_chinese("他说 hi，世界和平")
        and not is_chinese("hello 世")
        and not is_chinese("12")
    )
    assert is_list("Sure:\n1. one\n2. two") and is_list("- a\n- b") and not is_list("In 1. place") and not is_list("")
    assert asks_for_a_list("List three benefits of sleep") and asks_for_a_list("Name two rivers.")
    assert not asks_for_a_list("Explain gravity")


@pytest.mark.packaged
def test_the_judge_of_refusals_agrees_with_people():
    """169 answers labelled by people. Those it misses mostly answer another question, which the labels call refusal."""
    from ep_experiments.behaviours.prompts import PYRIT, labelled_answers
    from exemplar_partitioning.demo.wheels import cache_dir

    if not (cache_dir() / "wheels" / PYRIT.filename).exists():
        pytest.skip("the pyrit wheel is not in the cache; `ep experiment refusal` fetches it")
    rows = [(refuses(answer), label) for answer, label in labelled_answers()]
    assert (len(rows), sum(label for _, label in rows)) == (169, 109)
    assert sum(said and not label for said, label in rows) == 0
    assert sum(said and label for said, label in rows) >= 55


class TestSplit:
    def test_parts_share_no_near_duplicates(self):
        pool = [" ".join(f"word{n}" for n in range(7 * i, 7 * i + 7)) for i in range(50)]
        pool += [prompt + "!" for prompt in pool]
        found = split(pool, [f"is{i} what{i}" for i in range(90)], None, (20, 10, 10), seed=1, sources={})
        for kind in (0, 1):
            parts = [found.train[kind], found.validation[kind], found.test[kind]]
            assert list(map(len, parts)) == [20, 10, 10]
            every = [prompt.strip("!") for part in parts for prompt in part]
            assert len(set(every)) == 40
        assert found.dropped > 0
        assert found == split(pool, [f"is{i} what{i}" for i in range(90)], None, (20, 10, 10), seed=1, sources={})

    def test_test_prompts_of_another_source_leave_out_what_training_has(self):
        mine = [f"explain{i} word{i} number{i}" for i in range(56)]
        theirs = [*mine[:30], *(f"who{i} owns{i} house{i}" for i in range(40))]
        found = split(mine, [f"is{i} what{i}" for i in range(90)], theirs, (20, 10, 30), seed=0, sources={})
        assert not set(found.test[0]) & (set(found.train[0]) | set(found.validation[0]))

    def test_too_few(self):
        with pytest.raises(EPError, match="too few for 20 \\+ 10 \\+ 10"):
            split(["one prompt", "two prompts"], ["three"], None, (20, 10, 10), seed=0, sources={})


def answered(*shows):
    return Answers([Generation("", "a b a", [0], [1]) for _ in shows], np.array(shows, float), None)


def test_scores_by_hand():
    before, after = answered(1, 1, 1, 1, 0, 1, math.nan), answered(0, 0, 0, 0, 0, 1, 0)
    assert before.record() | {"low": 0, "high": 0} == {
        "n": 6,
        "unscored": 1,
        "showing": 5,
        "rate": 0.8333,
        "low": 0,
        "high": 0,
        "rate_strictly": None,
        "unique_words": 0.6667,
    }
    assert before.scores == "111101-"
    assert mcnemar(before.shows, after.shows) == {"lost": 4, "gained": 0, "p": 0.125}
    assert mcnemar(before.shows, before.shows) == {"lost": 0, "gained": 0, "p": 1.0}


def test_a_judge_that_fails_leaves_one_answer_unscored():
    found = judged(lambda text: 1 / len(text) > 0, [Generation("", text, [0], [1]) for text in ("a", "", "b")])
    assert np.isnan(found[1]) and found[[0, 2]].tolist() == [1, 1]


def test_perplexity_is_that_of_the_models_own_loss(roomy_folder):
    loaded = ep.load_model(str(roomy_folder))
    ids = torch.randint(3, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        loss = loaded.model(ids, labels=ids).loss
    assert perplexity(loaded, list(ids.numpy())) == pytest.approx(math.exp(loss), rel=1e-5)


@pytest.fixture(scope="module")
def planted(roomy_folder):
    """A model that answers "sees" when a prompt has the word king in it: one direction, written and read."""
    from transformers import LlamaConfig, LlamaForCausalLM

    loaded = ep.load_model(str(roomy_folder))
    loaded.tokenizer.chat_template = "{% for m in messages %}<s> {{ m['content'] }} old{% endfor %}"
    cause, effect = (loaded.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in ("king", "sees"))
    assert len(cause) == len(effect) == 1
    settings = loaded.model.config.to_dict() | {"num_key_value_heads": 2}
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    v_d = torch.nn.functional.normalize(torch.randn(24), dim=0)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.v_proj.weight.copy_(4 * torch.outer(v_d, v_d))
            block.self_attn.o_proj.weight.copy_(torch.eye(24))
        embedding = model.model.embed_tokens.weight
        embedding.normal_().mul_(0.3)
        embedding -= torch.outer(embedding @ v_d, v_d)
        embedding[cause[0]] = 8 * v_d
        model.lm_head.weight.normal_().mul_(0.1)
        model.lm_head.weight[effect[0]] = 0.8 * v_d
    return ep.load_model(model, tokenizer=loaded.tokenizer), v_d


SEES = Behaviour("sees", "the model answers sees", lambda answer: answer.strip().startswith("sees"))


def prompts_with(word, count, seed):
    rng = np.random.default_rng(seed)
    words = [w for w in WORDS if w not in ("king", "sees")]
    return [" ".join([*rng.choice(words, 4), word, *rng.choice(words, 2)]) for _ in range(count)]


@pytest.fixture(scope="module")
def result(planted, tmp_path_factory):
    loaded, _ = planted
    parts = [(prompts_with("king", n, n), prompts_with("stone", n, n + 1)) for n in (24, 10, 16)]
    plan = causal.Plan(layers=(0, 1), percentiles=(55.0, 65.0), nulls=2, random=3, max_new_tokens=3, ppl_windows=4)
    told = []
    found = causal.run(
        SEES,
        loaded,
        Prompts(*parts, sources={}, dropped=0),
        plan,
        tmp_path_factory.mktemp("experiment") / "dictionaries",
        lambda *news: told.append(news),
        iter([" ".join(WORDS * 20)]),
    )
    assert told
    return found


class TestPlanted:
    def test_the_model_does_it(self, planted, result):
        loaded, _ = planted
        assert answers(loaded, prompts_with("king", 8, 0), SEES.shows, max_new_tokens=2).rate == 1
        assert answers(loaded, prompts_with("stone", 8, 0), SEES.shows, max_new_tokens=2).rate == 0
        assert result["baseline"]["rate"] == 1 and result["baseline_others"]["rate"] == 0

    def test_regions_remove_it_and_controls_do_not(self, result):
        arms = {arm["name"]: arm for arm in result["arms"]}
        for name in ("exemplar", "mean member", "difference of means"):
            assert arms[name]["removed"] == 1 and arms[name]["paired"]["p"] < 0.001
        for name in ("random direction", "null region off the axis"):
            assert np.mean([arm["removed"] for arm in result["arms"] if arm["name"] == name]) < 0.3

    def test_adding_the_mean_brings_it_about(self, result):
        induced = {row["name"]: row["rate"] for row in result["induced"]}
        assert induced["mean member"] > 0.5 and induced["difference of means"] > 0.5
        assert induced["random direction"] < 0.5

    def test_the_result_is_plain_json(self, result):
        again = json.loads(json.dumps(result))
        assert {row["kind"] for row in again["sweep"]} >= {"exemplar", "mean member", "difference of means"}
        assert all(0 <= arm["low"] <= arm["rate"] <= arm["high"] <= 1 for arm in again["arms"])

    def test_its_figure(self, result):
        from ep_experiments.behaviours.plots import arms_figure
        from exemplar_partitioning.show.figures import to_bytes

        svg = to_bytes(arms_figure(result), "svg")
        assert svg == to_bytes(arms_figure(result), "svg")

    def test_a_behaviour_that_never_shows(self, planted, tmp_path):
        loaded, _ = planted
        parts = [(prompts_with("dog", n, n), prompts_with("stone", n, n + 1)) for n in (10, 8, 8)]
        plan = causal.Plan(layers=(0,), random=1, max_new_tokens=2)
        with pytest.raises(EPError, match="0 of 20 answers to training prompts show it"):
            causal.run(SEES, loaded, Prompts(*parts, sources={}, dropped=0), plan, tmp_path / "out", lambda *_: None)


def test_arms_are_tested_against_the_null_that_is_hardest_to_tell_apart():
    def arm(name, scores):
        return {"name": name, "scores": scores, "rate": scores.count("1") / len(scores)}

    arms = [arm("exemplar", "0" * 20), arm("mean member", "1" * 20), arm("difference of means", "01" * 10)]
    nulls = [arm("null region", "1" * 20), arm("null region", "0" * 19 + "-"), arm("random direction", "1" * 20)]
    rows = {(row["arm"], row["null"]): row for row in against([*arms, *nulls])}
    assert rows["exemplar", "null region"]["p"] == 1  # the second of them removes as much
    assert rows["exemplar", "random direction"]["p"] < 1e-4
    assert rows["exemplar", "null region"]["nulls"] == 2 and rows["mean member", "random direction"]["p"] == 1
