"""Attribution on a real tiny model: nothing changes by writing activations as codes, and effects are what they say."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.act.attribute import PromptAtSite, nodes_of_regions, spliced
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.generate import encode
from exemplar_partitioning.reading import decomposed

PROMPT = "the dog walks by the river and the king"


@pytest.fixture(scope="module")
def built(tiny_folder, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("attribution") / "out"
    sizes = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 4000}
    ep.build(str(tiny_folder), [text_file], out=out, sites="resid_post.0", percentiles=[10], **sizes)  # type: ignore[arg-type]
    return ep.load_model(str(tiny_folder)), ep.load(out), [str(out), "--model", str(tiny_folder)]


@pytest.fixture(scope="module")
def target(built):
    """Two words that are a token each."""
    tokenizer = built[0].tokenizer
    pieces = (tokenizer.decode([i]) for i in range(len(tokenizer)))
    single = [p for p in pieces if p.isalpha() and len(tokenizer(p, add_special_tokens=False)["input_ids"]) == 1]
    return single[0], single[1]


def test_codes_and_errors_add_up_to_the_activations_and_change_no_logit(built):
    loaded, d, _ = built
    prompt = PromptAtSite(loaded, "resid_post.0", encode(loaded, PROMPT, chat=False))
    assert not prompt.text_s[0] and prompt.text_s[1:].all()  # all but the BOS
    codes = d.decompose(prompt.x_sd[prompt.text_s], 5)
    nodes = nodes_of_regions(prompt, codes)
    assert torch.equal(spliced(prompt, codes, nodes)[0], prompt.x_sd)
    with torch.inference_mode():
        clean = loaded.model(torch.tensor([prompt.ids])).logits[0, -1]
    assert torch.equal(prompt.logits(spliced(prompt, codes, nodes))[0], clean)
    assert prompt.target == tuple(clean.topk(2).indices.tolist())
    # to first order, regions and errors make up all that differs from the centre
    whole = (prompt.gradient_sd * (prompt.x_sd - d.center))[prompt.text_s].sum()
    assert float(nodes.effect_n.sum()) == pytest.approx(float(whole), rel=1e-4, abs=1e-5)
    part = dataclasses.replace(nodes, vectors_nd=nodes.vectors_nd / 100)
    every = torch.arange(len(nodes.of_n))
    torch.testing.assert_close(part.without(prompt, every), nodes.effect_n / 100, atol=1e-4, rtol=0.1)
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


def test_gradients_are_those_of_the_logit_difference(built):
    loaded, _, _ = built
    prompt = PromptAtSite(loaded, "resid_post.0", encode(loaded, PROMPT, chat=False), (11, 12))
    step = torch.randn(prompt.x_sd.shape, generator=torch.Generator().manual_seed(0)) * 1e-2
    step[0] = 0  # the BOS keeps its activation
    ahead, behind = prompt.differences(torch.stack([prompt.x_sd + step, prompt.x_sd - step]))
    assert float(ahead - behind) / 2 == pytest.approx(float((prompt.gradient_sd * step).sum()), rel=0.02)


def test_measured_is_what_becomes_of_the_difference_without_the_region(built, target):
    loaded, d, _ = built
    found = ep.attribute(loaded, d, PROMPT, target, k=4, top=1000)
    assert found.splice < 1e-5 and [p.strip() for p in found.target] == list(target)
    sizes = [abs(effect.predicted) for effect in found.effects]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(effect.predicted for effect in found.effects) == pytest.approx(found.regions, abs=1e-4)
    assert sum(found.by_token) == pytest.approx(found.regions, abs=1e-4)
    effect, ids = found.effects[0], torch.tensor([encode(loaded, PROMPT, chat=False)])
    first, second = (loaded.tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in target)

    def without(_module, _args, output):
        output = output[0] if isinstance(output, tuple) else output
        output[0, effect.token] -= effect.weight * d.exemplars[effect.region]

    with torch.no_grad():
        handle = loaded.architecture.blocks[0].register_forward_hook(without)
        try:
            logits = loaded.model(ids).logits[0, -1]
        finally:
            handle.remove()
    assert found.difference - float(logits[first] - logits[second]) == pytest.approx(effect.measured, abs=1e-4)


def test_targets_that_are_not_two_tokens_are_refused(built, target):
    loaded, d, _ = built
    for given in (target[:1], [*target, target[0]], [target[0], target[0]]):
        with pytest.raises(EPError, match="a target is two different tokens"):
            ep.attribute(loaded, d, PROMPT, given, k=4)
    with pytest.raises(EPError, match="tokens to this model; give two that are one token each"):
        ep.attribute(loaded, d, PROMPT, [target[0], "king river stone"], k=4)
    with pytest.raises(EPError, match="no tokens to attribute to"):
        ep.attribute(loaded, d, "", k=4)
    with pytest.raises(EPError, match="context"):
        ep.attribute(loaded, d, "dog " * 5000, k=4)
    with pytest.raises(EPError, match="k must be a whole number from 1"):
        ep.attribute(loaded, d, PROMPT, k=1000)


def test_on_the_command_line(built, target):
    _, _, out = built
    run = CliRunner().invoke(
        app, ["attribute", *out, PROMPT, *(f"--target={t}" for t in target), "-k", "4", "--top", "3", "--json"]
    )
    assert run.exit_code == 0, run.output
    shown = json.loads(run.stdout)
    assert len(shown["effects"]) == 3 and shown["splice"] == 0 and {"label", "region"} <= set(shown["effects"][0])
    run = CliRunner().invoke(app, ["attribute", *out, PROMPT, "-k", "4"])
    assert run.exit_code == 0 and "predicted for all regions" in run.stdout


def test_a_text_is_decomposed_token_by_token(built):
    loaded, d, out = built
    tokens = decomposed(d, loaded, PROMPT, 4)
    prompt = PromptAtSite(loaded, "resid_post.0", encode(loaded, PROMPT, chat=False))
    assert [token.token_id for token in tokens] == prompt.ids[1:]
    for token, x_d in zip(tokens, prompt.x_sd[1:], strict=True):
        rebuilt_d = d.center + torch.tensor(token.weights) @ d.exemplars[token.regions]
        length = float((x_d - d.center).norm())
        assert token.norm == pytest.approx(length, rel=1e-4) and 0 < len(token.regions) <= 4
        assert token.left == pytest.approx(float((x_d - rebuilt_d).norm()) / length, abs=1e-4)
    run = CliRunner().invoke(app, ["decompose", *out, PROMPT, "-k", "4", "--json"])
    assert run.exit_code == 0, run.output
    shown = json.loads(run.stdout)["tokens"]
    assert [token["regions"] for token in shown] == [token.regions for token in tokens]
    assert all(len(token["labels"]) == len(token["regions"]) for token in shown)
    run = CliRunner().invoke(app, ["decompose", *out, PROMPT, "-k", "2"])
    assert run.exit_code == 0 and "left of the squared length" in run.stdout
    run = CliRunner().invoke(app, ["decompose", *out, PROMPT, "-k", "2", "--basis", "mean"])
    assert "Run `ep annotate" in str(run.exception)
    for arguments in ([], ["a b", "--file", "none.txt"]):
        run = CliRunner().invoke(app, ["decompose", *out, *arguments])
        assert "give either a text or --file" in str(run.exception)
