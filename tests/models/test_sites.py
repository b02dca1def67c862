"""Names of sites: every spelling means one place, and what could mean two is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.architecture import Architecture
from exemplar_partitioning.models.sites import POINTS, Site, resolve_sites
from tiny_models import N_LAYERS, tiny

ARCHITECTURES = {family: Architecture.of(tiny(family)) for family in ("llama", "gemma3", "qwen2", "gpt2", "gpt_neox")}
EVERYWHERE = [Site(layer, point) for layer in range(N_LAYERS) for point in POINTS]

families = st.sampled_from(sorted(ARCHITECTURES))
sites = st.sampled_from(EVERYWHERE)


def spellings(site: Site, architecture: Architecture) -> list[str]:
    names = [str(site), site.transformer_lens, site.module_path(architecture)]
    native = {"resid_pre": "hook_in", "resid_post": "hook_out"}
    if site.point in native:
        names.append(f"blocks.{site.layer}.{native[site.point]}")
    elif not architecture.has_post_norms:
        part = "attn" if site.point == "attn_out_post" else "mlp"
        raw = architecture.raw_output(site.layer, part)
        names += [f"{part}_out.{site.layer}", f"blocks.{site.layer}.{part}.hook_out"]
        names.append(f"{architecture.path}.{site.layer}.{raw}")
    return names


@given(family=families, site=sites)
def test_every_spelling_of_a_site_resolves_to_it(family, site):
    architecture = ARCHITECTURES[family]
    for name in spellings(site, architecture):
        assert resolve_sites(name, architecture) == (site,), name


@given(family=families, chosen=st.lists(sites, min_size=1, max_size=8), data=st.data())
def test_lists_are_deduplicated_and_in_execution_order(family, chosen, data):
    architecture = ARCHITECTURES[family]
    names = [data.draw(st.sampled_from(spellings(site, architecture))) for site in chosen]
    expected = tuple(site for site in EVERYWHERE if site in chosen)  # EVERYWHERE is in that order
    assert resolve_sites(", ".join(names), architecture) == expected
    assert resolve_sites(names, architecture) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("resid_post.*", ["resid_post.0", "resid_post.1", "resid_post.2", "resid_post.3"]),
        ("resid_post.[1-2]", ["resid_post.1", "resid_post.2"]),
        ("*.3", ["resid_pre.3", "attn_out_post.3", "mlp_out_post.3", "resid_post.3"]),
        ("resid_*.?,resid_post.0", [f"resid_{end}.{n}" for n in range(4) for end in ("pre", "post")]),
    ],
)
def test_globs(pattern, expected):
    assert [str(site) for site in resolve_sites(pattern, ARCHITECTURES["llama"])] == expected


def test_module_paths_name_the_modules_of_the_family():
    paths = {family: Site(2, "resid_post").module_path(arch) for family, arch in ARCHITECTURES.items()}
    assert paths == {
        "llama": "model.layers.2",
        "gemma3": "model.layers.2",
        "qwen2": "model.layers.2",
        "gpt2": "transformer.h.2",
        "gpt_neox": "gpt_neox.layers.2",
    }
    gemma = ARCHITECTURES["gemma3"]
    assert Site(2, "mlp_out_post").module_path(gemma) == "model.layers.2.post_feedforward_layernorm"
    assert Site(2, "attn_out_post").module_path(gemma) == "model.layers.2.post_attention_layernorm"
    # The same name is the norm before the MLP on Llama: there it is what comes out of that norm.
    assert Site(2, "attn_out_post").module_path(ARCHITECTURES["llama"]) == "model.layers.2.self_attn"
    name = "model.layers.2.post_attention_layernorm"
    assert [str(site) for site in resolve_sites(name, ARCHITECTURES["llama"])] == [f"{name}@out"]


@pytest.mark.parametrize(
    "name", ["mlp_out.1", "attn_out.1", "blocks.1.mlp.hook_out", "model.layers.1.mlp", "model.layers.1.self_attn"]
)
def test_raw_outputs_are_ambiguous_where_a_norm_follows(name):
    with pytest.raises(EPError, match=r"ambiguous.*(mlp|attn)_out_post\.1"):
        resolve_sites(name, ARCHITECTURES["gemma3"])
    (site,) = resolve_sites(name, ARCHITECTURES["llama"])
    assert site.layer == 1
    assert site.point in ("mlp_out_post", "attn_out_post")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resid_post", "unknown site"),
        ("resid_post.-1", "unknown site"),
        ("transformer.h.1", "unknown site"),
        ("model.layers.1.mlp.gate_prj", "nearest is model.layers.1.mlp.gate_proj"),
        ("resid_post.4", "out of range"),
        ("blocks.99.hook_resid_post", "out of range"),
        ("model.layers.4", "out of range"),
        ("model.layers.4.mlp", "out of range"),
        ("resid_post.9*", "matches no site"),
        (" , ", "no site"),
    ],
)
def test_what_is_no_site_is_refused_and_the_valid_ones_are_listed(name, says):
    with pytest.raises(EPError, match=says) as refusal:
        resolve_sites(name, ARCHITECTURES["llama"])
    assert "resid_post.L" in str(refusal.value)
    assert "from 0 to 3" in str(refusal.value)


def test_all_orderings_agree():
    backwards = EVERYWHERE[::-1]
    assert sorted(backwards) == EVERYWHERE
    assert Site(1, "resid_pre") < Site(1, "mlp_out_post") <= Site(1, "resid_post") < Site(2, "resid_pre")
