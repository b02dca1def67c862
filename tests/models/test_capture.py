"""Captured activations are the model's own, whatever the batching, and the forward pass ends early."""

import numpy as np
import pytest
import torch
from torch import nn

from exemplar_partitioning.annotating.quality import nearest_other
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.architecture import Architecture
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.generate import generate
from exemplar_partitioning.models.lens import lens
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.models.sites import POINTS, Site, resolve_sites
from tiny_models import FAMILIES, N_LAYERS, VOCAB, random_windows, tiny

every_family = pytest.mark.parametrize("family", sorted(FAMILIES))


def sites_of(model, spec: str = "*") -> tuple[Site, ...]:
    return resolve_sites(spec, Architecture.of(model))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * scale)


def count_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@every_family
def test_residual_stream_is_what_transformers_calls_hidden_states(family):
    model = tiny(family)
    windows = random_windows(7)
    got = Extractor(model, sites_of(model), batch_size=3).extract(windows)
    final: list[torch.Tensor] = []  # transformers' last hidden state is after the final norm: look before it
    last_block = Architecture.of(model).blocks[-1]
    watch = last_block.register_forward_hook(
        lambda _m, _a, out: final.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    expected: dict[Site, list[torch.Tensor]] = {}
    with torch.inference_mode():
        for window in windows:  # one at a time: no padding anywhere
            hidden = model(input_ids=torch.from_numpy(window)[None], output_hidden_states=True).hidden_states
            for layer in range(N_LAYERS):
                after = hidden[layer + 1] if layer + 1 < N_LAYERS else final[-1]
                expected.setdefault(Site(layer, "resid_pre"), []).append(hidden[layer][0])
                expected.setdefault(Site(layer, "resid_post"), []).append(after[0])
    watch.remove()
    assert len(final) == len(windows)
    for site, rows in expected.items():
        assert got[site].dtype == torch.float32
        assert_close(got[site], torch.cat(rows))


@every_family
def test_contributions_add_up(family):
    """Law of contributions: stream before + attention + MLP = stream after, in every block."""
    model = tiny(family)
    got = Extractor(model, sites_of(model)).extract(random_windows(5))
    for layer in range(N_LAYERS):
        before, attention, mlp, after = (got[Site(layer, point)] for point in POINTS)
        assert_close(before + attention + mlp, after)
        for part in (attention, mlp):  # else the law could hold with a part captured as nothing
            assert float(part.norm()) > 0.01 * float(after.norm())


@every_family
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_padding_and_batching_change_nothing(family, batch_size):
    """Close, not bitwise: the rounding of a matrix product depends on how many rows it has."""
    model = tiny(family)
    windows = random_windows(32)
    spec = sites_of(model, "resid_post.*,mlp_out_post.2")
    alone = [Extractor(model, spec, batch_size=1).extract([window]) for window in windows]
    got = Extractor(model, spec, batch_size=batch_size).extract(windows)
    for site in spec:
        assert_close(got[site], torch.cat([one[site] for one in alone]))


def test_rows_follow_the_windows_not_the_batches():
    model = tiny("llama")
    windows = random_windows(20)
    sites = sites_of(model, "resid_post.1")
    extractor = Extractor(model, sites, batch_size=4)
    rows = extractor.extract(windows)[sites[0]].split([len(w) for w in windows])
    order = np.random.default_rng(1).permutation(len(windows))
    shuffled = extractor.extract([windows[i] for i in order])[sites[0]].split([len(windows[i]) for i in order])
    for position, index in enumerate(order):
        assert_close(shuffled[position], rows[index])


def test_the_same_windows_give_the_same_bytes():
    model = tiny("gemma3")
    extractor = Extractor(model, sites_of(model, "resid_post.2"), batch_size=4)
    first, second = (extractor.extract(random_windows(11)) for _ in range(2))
    for site, rows in first.items():
        assert torch.equal(rows, second[site])


@every_family
@pytest.mark.parametrize("point", POINTS)
def test_nothing_runs_after_the_last_site(family, point):
    model = tiny(family)
    blocks = Architecture.of(model).blocks
    ran: list[str] = []
    for name, module in [(f"block {i}", block) for i, block in enumerate(blocks)] + [
        ("head", model.get_output_embeddings())
    ]:
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    extractor = Extractor(model, [Site(1, point), Site(0, "resid_post")])
    ran.clear()  # what the constructor's check ran
    extractor.extract(random_windows(2))
    # Hooks fire when a module is done: block 1 is left inside unless its own output is what was wanted.
    assert ran == (["block 0", "block 1"] if point == "resid_post" else ["block 0"])


def test_hooks_are_gone_after_success_failure_and_interruption():
    model = tiny("llama")
    extractor = Extractor(model, sites_of(model))

    def interrupt(_tokens: int) -> None:
        raise KeyboardInterrupt

    extractor.extract(random_windows(3))
    with pytest.raises(KeyboardInterrupt):
        extractor.extract(random_windows(3), interrupt)
    broken = model.model.layers[2].mlp.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extractor.extract(random_windows(3))
    broken.remove()
    assert count_hooks(model) == 0


def test_progress_counts_true_tokens():
    model = tiny("llama")
    windows = random_windows(10)
    seen: list[int] = []
    Extractor(model, sites_of(model, "resid_post.0"), batch_size=4).extract(windows, seen.append)
    assert len(seen) == 3
    assert sum(seen) == sum(map(len, windows))


class TupleBlock(nn.Module):
    """A block as older versions of transformers have them: it returns a tuple and is called by keyword."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: torch.Tensor, **kwargs):
        output = self.block(hidden_states, **kwargs)
        return (output[0] if isinstance(output, tuple) else output, "cache")  # transformers 5.0 has tuples itself


class KeywordModel(nn.Module):
    """Calls its blocks by keyword and unpacks their tuples."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.blocks = nn.ModuleList(TupleBlock(block) for block in inner.transformer.h)

    def get_input_embeddings(self) -> nn.Module:
        return self.inner.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor, use_cache: bool):
        stream = self.inner.transformer
        hidden = stream.wte(input_ids) + stream.wpe(torch.arange(input_ids.shape[1]))
        for block in self.blocks:
            hidden = block(hidden_states=hidden)[0]
        return hidden


def test_tuples_and_keyword_calls_are_understood():
    plain = tiny("gpt2")
    windows = random_windows(6)
    expected = Extractor(plain, sites_of(plain, "resid_*")).extract(windows)
    wrapped = KeywordModel(plain)
    wrapped.inner.transformer.h = nn.ModuleList()  # leaves one list of blocks to be found, at an unknown path
    architecture = Architecture.of(wrapped)
    assert architecture.path == "blocks"
    got = Extractor(wrapped, sites_of(wrapped, "resid_*")).extract(windows)
    for site, rows in expected.items():
        assert_close(got[site], rows)


def test_bfloat16_values_arrive_unchanged():
    model = tiny("llama").to(torch.bfloat16)
    (window,) = random_windows(1, seed=3)
    site = Site(2, "resid_post")
    got = Extractor(model, [site]).extract([window])[site]
    with torch.inference_mode():
        hidden = model(input_ids=torch.from_numpy(window)[None], output_hidden_states=True).hidden_states[3][0]
    assert hidden.dtype == torch.bfloat16
    assert got.dtype == torch.float32
    assert torch.equal(got, hidden.float())


def test_dropout_is_off_and_the_mode_is_restored():
    model = tiny("gpt2")
    sites = sites_of(model, "resid_post.3")
    expected = Extractor(model, sites).extract(random_windows(3))[sites[0]]
    model.train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(Extractor(model, sites).extract(random_windows(3))[sites[0]], expected)
    assert [module.training for module in model.modules()] == modes


def test_no_windows_give_no_rows():
    model = tiny("llama")
    (rows,) = Extractor(model, [Site(0, "resid_post")]).extract([]).values()
    assert rows.shape == (0, 24)


@pytest.mark.parametrize(
    ("window", "says"),
    [
        (np.array([3, VOCAB]), f"token id {VOCAB} is outside"),
        (np.array([-1, 3]), "token id -1 is outside"),
        (np.array([], dtype=np.int64), "expected a 1-D, non-empty"),
        (np.ones((2, 3), dtype=np.int64), "expected a 1-D, non-empty"),
        (np.array([0.5]), "integer token ids"),
        (np.zeros(65, dtype=np.int64), "at most 64"),
    ],
)
def test_bad_windows_are_refused(window, says):
    model = tiny("llama")
    with pytest.raises(EPError, match=says):
        Extractor(model, [Site(0, "resid_post")]).extract([np.array([1, 2]), window])


def test_a_block_that_scales_what_it_adds_is_refused_for_contributions():
    model = tiny("llama")
    model.model.layers[1].register_forward_hook(lambda _m, args, out: args[0] + 0.5 * (out - args[0]))
    assert Extractor(model, [Site(1, "resid_post"), Site(0, "mlp_out_post")])
    with pytest.raises(EPError, match=r"block 1 .* cannot be read off"):
        Extractor(model, [Site(1, "mlp_out_post")])


def test_a_block_that_never_runs_is_an_error():
    model = tiny("llama")
    architecture_before = Extractor(model, [Site(3, "resid_post")])
    model.config.num_hidden_layers = 2  # transformers then runs the first two blocks only
    with pytest.raises(EPError, match=r"never reached resid_post\.3"):
        architecture_before.extract(random_windows(2))


def test_what_is_no_language_model_is_refused():
    with pytest.raises(EPError, match="expected a causal language model"):
        Architecture.of(nn.Linear(2, 2))
    with pytest.raises(EPError, match="expected a causal language model"):
        Architecture.of("gpt2")
    model = tiny("gpt2")
    model.config.n_layer = 3
    with pytest.raises(EPError, match=r"3 blocks: looked for model\.layers"):
        Architecture.of(model)


@pytest.mark.parametrize("around", [lambda: torch.autocast("cpu", torch.bfloat16), torch.inference_mode])
def test_what_is_set_around_changes_nothing(tiny_folder, around):
    """Tests of the model, activations, lens and what it writes; a model in training has no dropout meanwhile."""

    def everything():
        loaded = load_model(str(tiny_folder))
        loaded.model.train()
        (x_nd,) = Extractor(loaded.model, [Site(1, "resid_post")]).extract(random_windows(5)).values()
        logits = torch.cat(list(lens(loaded, x_nd[:20])))
        logits += 1  # the caller's to change
        metrics = nearest_other(torch.nn.functional.normalize(x_nd, dim=1))
        written = generate(loaded, ["a king", "the old grey river"], max_new_tokens=5, chat=False)
        assert loaded.model.training
        return loaded.info, x_nd.numpy().tobytes(), logits.numpy().tobytes(), metrics[0].tobytes(), written

    expected = everything()
    with around():
        assert everything() == expected
