"""Interventions do what they say: closed forms, hand-edited passes, caches, padding; nothing is left behind."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import exemplar_partitioning as ep
from exemplar_partitioning.act.edits import Gate, add, clamp, gated, off, onto, orthonormal, swap
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.architecture import Architecture
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.hooks import applied
from exemplar_partitioning.models.sites import Site
from exemplar_partitioning.reading import written
from tiny_models import FAMILIES, tiny

D = 24


@pytest.fixture(scope="module")
def built(tiny_folder, text_file, tmp_path_factory):
    """A tiny model and an annotated dictionary of it."""
    out = tmp_path_factory.mktemp("interventions") / "out"
    options = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 4000}
    ep.build(str(tiny_folder), [text_file], out=out, sites="resid_post.1", percentiles=[10], **options)
    (dictionary,) = ep.annotate(out, [text_file], model=str(tiny_folder), max_tokens=200)
    return ep.load_model(str(tiny_folder)), dictionary


def rows(n, seed=0):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


class TestClosedForms:
    @settings(deadline=None, max_examples=40)
    @given(seed=st.integers(0, 10**6), r=st.integers(1, 5))
    def test_off_and_onto_share_out_an_activation(self, seed, r):
        x_nd, c_d, q_rd = rows(6, seed), rows(1, seed + 1)[0], orthonormal(rows(r, seed + 2))
        without, along = off(q_rd, c_d), onto(q_rd, c_d)
        torch.testing.assert_close(without(x_nd) + along(x_nd) - c_d, x_nd)
        torch.testing.assert_close(without(without(x_nd)), without(x_nd))
        torch.testing.assert_close((without(x_nd) - c_d) @ q_rd.T, torch.zeros(6, len(q_rd)), atol=1e-5, rtol=0)
        assert (without(x_nd) - c_d).norm() <= (x_nd - c_d).norm() + 1e-4

    @settings(deadline=None, max_examples=40)
    @given(seed=st.integers(0, 10**6), r=st.integers(1, 5))
    def test_swap_takes_the_targets_part_of_the_span_and_leaves_the_rest(self, seed, r):
        x_nd, c_d, t_d, q_rd = rows(6, seed), rows(1, seed + 1)[0], rows(1, seed + 3)[0], orthonormal(rows(r, seed + 2))
        swapped = swap(q_rd, t_d)(x_nd)
        torch.testing.assert_close(swapped @ q_rd.T, (t_d @ q_rd.T).expand(6, -1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(off(q_rd, c_d)(swapped), off(q_rd, c_d)(x_nd), atol=1e-5, rtol=1e-4)

    def test_clamp_and_add(self):
        x_nd, c_d, v_d = rows(5), rows(1, 1)[0], torch.nn.functional.normalize(rows(1, 2), dim=1)[0]
        clamped = clamp(v_d, c_d, 3.0)(x_nd)
        torch.testing.assert_close((clamped - c_d) @ v_d, torch.full((5,), 3.0))
        torch.testing.assert_close(add(2 * v_d)(x_nd) - x_nd, (2 * v_d).expand(5, -1))

    def test_near_duplicates_span_one_direction(self):
        v_d = rows(1)[0]
        assert orthonormal(torch.stack([v_d, v_d * (1 + 1e-8)])).shape == (1, D)
        with pytest.raises(EPError, match="span nothing"):
            orthonormal(torch.zeros(2, D))

    def test_a_gate_leaves_the_others_bit_by_bit(self):
        dictionary = ep.Dictionary(torch.zeros(D), torch.eye(D)[:3], 0.5)
        x_nd = torch.cat([torch.eye(D)[:3] * 5, rows(20)])
        ids, away = dictionary.assign(x_nd)
        edited = gated(Gate(dictionary, (1,)), add(torch.ones(D)))(x_nd)
        assert torch.equal(edited[ids != 1], x_nd[ids != 1]) and not torch.equal(edited[ids == 1], x_nd[ids == 1])
        near = gated(Gate(dictionary, (0, 1, 2), within=0.5), add(torch.ones(D)))(x_nd)
        assert torch.equal((near != x_nd).any(dim=1), away <= 0.5)
        with pytest.raises(EPError, match="region 3 does not exist"):
            Gate(dictionary, (3,))


def hand_edited(model, site, edit):
    """A copy of the model whose block itself edits what it puts out (or takes in), without any hook."""
    model = copy.deepcopy(model)
    block = Architecture.of(model).blocks[site.layer]
    forward = block.forward

    def instead(hidden, *args, **kwargs):
        if site.point == "resid_pre":
            return forward(edit(hidden), *args, **kwargs)
        output = forward(hidden, *args, **kwargs)
        return edit(output) if isinstance(output, torch.Tensor) else (edit(output[0]), *output[1:])

    block.forward = instead
    return model


@pytest.mark.parametrize("point", ["resid_pre", "resid_post"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_are_a_hand_edited_forward_pass(family, point):
    model, site = tiny(family), Site(2, point)
    edit = off(orthonormal(rows(2)), rows(1, 1)[0])
    ids_bs = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    by_hand = hand_edited(model, site, lambda x: edit(x.flatten(0, 1)).view_as(x))
    with torch.inference_mode():
        plain = model(input_ids=ids_bs).logits
        with applied(model, edit, str(site)):
            found = model(input_ids=ids_bs).logits
        torch.testing.assert_close(found, by_hand(input_ids=ids_bs).logits)
        assert not torch.allclose(found, plain)
        torch.testing.assert_close(model(input_ids=ids_bs).logits, plain, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
class TestGeneration:
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}  # noqa: RUF012

    def edit(self):
        return add(12 * torch.nn.functional.normalize(rows(1), dim=1)[0])

    def test_same_with_and_without_cache(self, family, tokens):
        model = tiny(family)
        model.generation_config.eos_token_id = None
        prompt = torch.tensor([[1, 5, 9, 44, 23, 7]])
        plain = model.generate(prompt, **self.options)
        with applied(model, self.edit(), "resid_post.1", tokens=tokens):
            cached = model.generate(prompt, use_cache=True, **self.options)
            again = model.generate(prompt, use_cache=False, **self.options)
        assert torch.equal(cached, again)
        assert not torch.equal(cached, plain)

    def test_padded_batch_is_one_at_a_time(self, family, tokens):
        model = tiny(family)
        model.generation_config.eos_token_id = None
        prompts = [[1, 5, 9, 44, 23, 7], [1, 60, 12]]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with applied(model, self.edit(), "resid_post.1", tokens=tokens):
            batch = model.generate(ids, attention_mask=mask, **self.options)[:, width:]
            for row, prompt in zip(batch, prompts, strict=True):
                alone = model.generate(
                    torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **self.options
                )
                assert torch.equal(alone[0, len(prompt) :], row)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(("tokens", "moved"), [("all", "111111"), ("prompt", "111100"), ("generated", "000011")])
def test_which_tokens_are_touched(tokens, moved, use_cache):
    model = tiny("llama")
    blocks, before, after = Architecture.of(model).blocks, [], []
    blocks[1].register_forward_hook(lambda _module, _args, output: before.append(output.clone()))
    blocks[2].register_forward_pre_hook(lambda _module, args: after.append(args[0].clone()))
    with applied(model, add(torch.ones(D)), "resid_post.1", tokens=tokens):
        prompt = torch.tensor([[1, 5, 9, 44]])
        options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        model.generate(prompt, use_cache=use_cache, **options)
    if use_cache:
        before, after = torch.cat(before, dim=1), torch.cat(after, dim=1)
    else:
        before, after = before[-1], after[-1]
    assert "".join(str(int(b)) for b in (before != after).any(dim=-1)[0]) == moved


def test_nothing_is_left_behind(built):
    loaded, dictionary = built
    model, blocks = loaded.model, Architecture.of(loaded.model).blocks

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return sum(hooks), "generate" in model.__dict__

    before = state()
    with pytest.raises(RuntimeError, match="in the middle"), ep.ablate(loaded, dictionary, 0, sites="*.1"):
        assert state()[0] > before[0]
        raise RuntimeError("in the middle")
    with (
        pytest.raises(EPError, match="unknown site"),
        ep.ablate(loaded, dictionary, 0, sites=["resid_post.1", "nowhere"]),
    ):
        pass
    assert state() == before and len(blocks) == 3


def test_nested_contexts_act_one_after_the_other(built):
    loaded, dictionary = built
    site = Site(1, "resid_post")
    window = torch.arange(15).numpy()
    extractor = Extractor(loaded.model, [Site(2, "resid_pre")])
    plain = Extractor(loaded.model, [site]).extract([window])[site]
    with ep.ablate(loaded, dictionary, 0), ep.steer(loaded, dictionary, 1, alpha=0.5):
        (found,) = extractor.extract([window]).values()
    e_kd, c_d = dictionary.exemplars, dictionary.center
    expected = off(e_kd[:1], c_d)(plain) + 0.5 * dictionary.typical_norm * e_kd[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["forward", "generate", "padded", "written"])
def test_a_missing_bos_beside_a_dictionary_built_with_one_is_said_once(built, way):
    loaded, dictionary = built
    bos = dictionary.config.text.begins_with
    assert bos == loaded.tokenizer.bos_token_id

    def run(first):
        ids_bs = torch.tensor([[*first, 5, 9, 44], [*first, 60, 12, 7]])
        mask_bs = torch.ones_like(ids_bs)
        if way == "padded":
            ids_bs = torch.nn.functional.pad(ids_bs, (1, 0), value=3)
            mask_bs = torch.nn.functional.pad(mask_bs, (1, 0))
        with ep.steer(loaded, dictionary, 1, alpha=0.5), ep.ablate(loaded.model, dictionary, 0), torch.inference_mode():
            for _ in range(2):
                if way == "written":
                    written(loaded, dictionary, "stone", max_new_tokens=3)
                elif way == "forward":
                    loaded.model(input_ids=ids_bs)
                else:
                    loaded.model.generate(ids_bs, attention_mask=mask_bs, max_new_tokens=3, pad_token_id=3)

    run([bos])  # warnings are errors here
    if way != "written":
        with pytest.warns(UserWarning, match=rf"tokens has no BOS \(token {bos}\).*Put it in front") as said:
            run([])
        assert len(said) == 2  # of two contexts


def test_arithmetic_is_float32_in_a_bfloat16_model(built, tiny_folder):
    _, dictionary = built
    loaded = ep.load_model(str(tiny_folder), dtype="bfloat16")
    site, window = Site(1, "resid_post"), torch.arange(3, 15).numpy()
    plain = Extractor(loaded.model, [site]).extract([window])[site]
    with ep.ablate(loaded, dictionary, 0, any_model=True):
        (found,) = Extractor(loaded.model, [Site(2, "resid_pre")]).extract([window]).values()
    expected = off(dictionary.exemplars[:1], dictionary.center)(plain).bfloat16().float()
    assert torch.equal(found, expected)


def test_ablated_activations_have_nothing_left_along_the_direction(built):
    loaded, dictionary = built
    window = torch.arange(15).numpy()
    for basis in ("exemplar", "mean"):
        members = dictionary.annotation.regions["members"].to_numpy()
        regions = (-members).argsort()[:2].tolist()
        with ep.ablate(loaded, dictionary, regions, basis=basis):
            (found,) = Extractor(loaded.model, [Site(2, "resid_pre")]).extract([window]).values()
        means = torch.from_numpy(dictionary.annotation.mean_directions)
        v_rd = (dictionary.exemplars if basis == "exemplar" else means)[regions]
        assert float(((found - dictionary.center) @ v_rd.T).abs().max()) < 1e-4 * dictionary.typical_norm


def test_typical_lengths_are_those_of_activations(built, text_file):
    loaded, dictionary = built
    window = loaded.tokenizer(text_file.read_text()[:400], add_special_tokens=False)["input_ids"][:100]
    (x_nd,) = Extractor(loaded.model, [Site(1, "resid_post")]).extract([torch.tensor([0, *window]).numpy()]).values()
    norms = x_nd[1:].norm(dim=1)
    assert 0.7 < dictionary.typical_norm / float(norms.median()) < 1.4
    radii = (x_nd[1:] - dictionary.center).norm(dim=1)
    assert 0.7 < dictionary.typical_radius / float(radii.median()) < 1.4


class TestRefused:
    def test_alpha_that_is_not_finite(self, built):
        with pytest.raises(EPError, match=r"alpha is nan; expected a finite number"):
            ep.steer(*built, 0, alpha=float("nan"))

    def test_region_out_of_range(self, built):
        with pytest.raises(EPError, match=r"region 100000 does not exist"):
            ep.ablate(*built, 100_000)

    def test_region_without_members_has_no_mean(self, built):
        loaded, dictionary = built
        (empty, *_) = (dictionary.annotation.regions["members"].to_numpy() == 0).nonzero()[0].tolist()
        with pytest.raises(EPError, match="has no members, so no mean direction"):
            ep.ablate(loaded, dictionary, empty, basis="mean")

    def test_another_model(self, built, tiny_folder):
        _, dictionary = built
        other = ep.load_model(str(tiny_folder), dtype="bfloat16")
        with pytest.raises(EPError, match=r"are not those of tiny-llama .* any_model=True"):
            ep.ablate(other.model, dictionary, 0)

    def test_another_width(self, built):
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
        )
        with pytest.raises(EPError, match=r"d_model is 16, the dictionary's \(tiny-llama\) is 24"):
            ep.ablate(LlamaForCausalLM(config), built[1], 0)

    def test_a_direction_of_another_shape(self, built):
        with pytest.raises(EPError, match=r"of shape \[24\]; got \[3\]"):
            ep.ablate(*built, 0, basis=torch.ones(3))


class TestBaked:
    def test_weights_say_what_the_hook_says(self, built, tmp_path):
        from transformers import AutoModelForCausalLM

        loaded, dictionary = built
        ids_bs = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
        ep.bake(loaded, dictionary, [0, 1]).save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        with torch.inference_mode():
            plain = loaded.model(input_ids=ids_bs).logits
            with ep.ablate_everywhere(loaded, dictionary, [0, 1]):
                hooked = loaded.model(input_ids=ids_bs).logits
            torch.testing.assert_close(again(input_ids=ids_bs).logits, hooked, rtol=1e-3, atol=1e-3)
            assert not torch.allclose(hooked, plain, atol=0.1)
            torch.testing.assert_close(loaded.model(input_ids=ids_bs).logits, plain, rtol=0, atol=0)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_families(self, built, family):
        _, dictionary = built
        model = tiny(family)
        ids_bs = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
        if family in ("gemma3", "gpt2"):
            with pytest.raises(EPError, match=r"use the hook: with ep\.ablate"):
                ep.bake(model, dictionary, 0, any_model=True)
            return
        with torch.inference_mode(), ep.ablate_everywhere(model, dictionary, 0, any_model=True):
            hooked = model(input_ids=ids_bs).logits
        baked = ep.bake(model, dictionary, 0, any_model=True)
        with torch.inference_mode():
            torch.testing.assert_close(baked(input_ids=ids_bs).logits, hooked, rtol=1e-3, atol=1e-3)

    def test_nothing_is_left_along_the_span_at_any_block(self, built):
        loaded, dictionary = built
        sites = [Site(layer, point) for layer in range(3) for point in ("resid_pre", "resid_post")]
        baked = ep.bake(loaded, dictionary, 0)
        found = Extractor(baked, sites).extract([torch.arange(3, 15).numpy()])
        for x_nd in found.values():
            along = x_nd @ dictionary.exemplars[0]
            assert float(along.abs().max()) < 1e-4 * dictionary.typical_norm


class TestGenerate:
    def test_before_and_after(self, built):
        from exemplar_partitioning.models.generate import generate
        from exemplar_partitioning.reading import written

        loaded, dictionary = built
        prompts = ["the old dog", "a king sees the grey river under", "stone"]
        plain = generate(loaded, prompts, max_new_tokens=6)
        assert [g.prompt for g in plain] == prompts
        alone = [generate(loaded, [p], max_new_tokens=6)[0].text for p in prompts]
        assert [g.text for g in plain] == alone
        with ep.steer(loaded, dictionary, 0, alpha=30.0):
            steered = generate(loaded, prompts, max_new_tokens=6)
            tokens = written(loaded, dictionary, prompts[0], max_new_tokens=6)
        assert "".join(token.text for token in tokens) == steered[0].text
        # so far along an exemplar that all lie in its region
        assert all(token.region == 0 and not token.off for token in tokens)
        with ep.steer(loaded, dictionary, 0, alpha=30.0, tokens="prompt"):
            assert any(token.region != 0 for token in written(loaded, dictionary, prompts[0], max_new_tokens=6))

    @pytest.mark.parametrize(
        ("prompts", "options", "message"),
        [
            ([], {}, "no prompts"),
            (["dog " * 200], {}, r"exceed the model's context of 144.*shorten"),
            (["dog"], {"chat": True}, "no chat template"),
        ],
    )
    def test_refused(self, built, prompts, options, message):
        from exemplar_partitioning.models.generate import generate

        with pytest.raises(EPError, match=message):
            generate(built[0], prompts, **options)


def test_command_line(built, tiny_folder):
    import json

    from typer.testing import CliRunner

    from exemplar_partitioning.cli import app

    command = ["steer", str(built[1].path), "--region", "0,1", "--prompt", "the old dog", "--model", str(tiny_folder)]
    result = CliRunner().invoke(
        app, [*command, "--alpha", "5", "--max-new-tokens", "5", "--json"], catch_exceptions=False
    )
    (said,) = json.loads(result.stdout)
    assert said["before"]["text"] != said["after"]["text"]
    result = CliRunner().invoke(app, [*command, "--ablate"], catch_exceptions=False)
    assert result.exit_code == 0 and "ablated" in result.stdout and "as it is" in result.stdout
    labelled = built[1][3].label.text
    by_label = [
        *command[:2],
        "--prompt",
        "the old dog",
        "--model",
        str(tiny_folder),
        "--max-new-tokens",
        "2",
        "--label",
    ]
    assert CliRunner().invoke(app, [*by_label, labelled], catch_exceptions=False).exit_code == 0
    for words, said in (("no such words", "0 labels"), ("", "0 labels")):
        with pytest.raises(EPError, match=said):
            CliRunner().invoke(app, [*by_label, words], catch_exceptions=False)
