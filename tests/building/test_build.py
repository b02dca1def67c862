"""The whole job on a tiny model: same bytes again, from pieces, after kills (laws L5-L9)."""

import itertools
import multiprocessing
import random
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import exemplar_partitioning as ep
import oracle
from conftest import WORDS, sentences, tree
from exemplar_partitioning.errors import EPError, Interrupted
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.sites import resolve_sites
from exemplar_partitioning.reading import read

OPTIONS = {
    "sites": "resid_post.0,resid_post.1",
    "percentiles": [2, 10],
    "calibration_batch": 500,
    "calibration_sample": 2000,
    "saturation_window": 4000,
    "context_size": 32,
    "shuffle_buffer": 50,
}


# Several chunks calibrate, and the text ends before anything saturates: a build that can be interrupted anywhere.
LONG = OPTIONS | {"calibration_sample": 9000, "saturation_window": 10**6}


@pytest.fixture(scope="module")
def long_built(tiny_folder, text_file, tmp_path_factory):
    """An undisturbed build with LONG options."""
    out = tmp_path_factory.mktemp("long") / "out"
    ep.build(str(tiny_folder), [text_file], out=out, **LONG)
    return out


@pytest.fixture(scope="module")
def built(tiny_folder, text_file, tmp_path_factory):
    """An undisturbed build."""
    out = tmp_path_factory.mktemp("built") / "out"
    result = ep.build(str(tiny_folder), [text_file], out=out, **OPTIONS)
    return out, result


def activations(tiny_folder, out, site):
    """The stream of a build once more, by other means: windows from its text, one window at a time."""
    from exemplar_partitioning.models.load import load_model
    from exemplar_partitioning.text.readers import Document
    from exemplar_partitioning.text.windowing import Windowing
    from exemplar_partitioning.text.windows import windows

    loaded = load_model(str(tiny_folder))
    (wanted,) = resolve_sites(site, loaded.architecture)
    documents = [Document(f"corpus.jsonl:{i}", text) for i, text in enumerate(sentences(600, seed=1))]
    special = frozenset(loaded.tokenizer.all_special_ids)
    rows, tokens = [], []
    config = Windowing(context_size=32, shuffle_buffer=50)
    extractor = Extractor(loaded.model, [wanted], batch_size=1)
    for window in windows(documents, loaded.tokenizer, config, bos_id=0, special_ids=special):
        rows.append(extractor.extract([window.ids])[wanted][1:])
        tokens += [(window.document, int(at), window.ids[: i + 1]) for i, at in enumerate(window.positions)][1:]
    return torch.cat(rows), tokens


def test_folder_holds_what_was_asked_for(built):
    out, result = built
    names = {f"resid_post.{layer}/p{p}/{name}" for layer in (0, 1) for p in (2, 10) for name in FILES}
    assert set(tree(out)) == names
    assert [(d.site, d.percentile) for d in result.dictionaries] == [
        ("resid_post.0", 2.0),
        ("resid_post.0", 10.0),
        ("resid_post.1", 2.0),
        ("resid_post.1", 10.0),
    ]
    assert not (out / ".build").exists()


FILES = ("config.json", "config.json.sha256", "exemplars.safetensors", "regions.parquet", "sole_covers.json")


@pytest.mark.parametrize("site", ["resid_post.0", "resid_post.1"])
def test_dictionary_is_the_oracles_on_the_same_stream(built, tiny_folder, site):
    """Centre, threshold, exemplars, provenance and arrivals, from activations got another way.

    Batches of one window round differently from batches of many, so values agree to 1e-5, not bitwise.
    """
    out, _ = built
    x, tokens = activations(tiny_folder, out, site)
    d = ep.load(out, site=site, percentile=10)
    n, config = d.config.build.n_activations, d.config
    batches = [x[i * 500 : (i + 1) * 500].numpy() for i in range(4)]
    np.testing.assert_allclose(d.center, oracle.centre(batches), rtol=1e-4, atol=1e-5)
    assert config.calibration.threshold == pytest.approx(oracle.threshold(batches, d.center.numpy(), 10), abs=1e-5)
    exemplars, births, ids, _ = oracle.leader_clustering(x[:n].numpy(), d.center.numpy(), d.threshold)
    assert d.regions.column("arrival_index").to_pylist() == births.tolist()
    assert d.regions.column("arrivals").to_pylist() == np.bincount(ids).tolist()
    np.testing.assert_allclose(d.exemplars, exemplars, atol=1e-5)
    for row, birth in zip(d.regions.to_pylist(), births, strict=True):
        document, position, window_tokens = tokens[birth]
        assert (row["document"], row["position"]) == (document, position)
        assert row["window_tokens"] == window_tokens.tolist()
        assert row["token_id"] == window_tokens[-1]
        assert row["raw_norm"] == pytest.approx(float(x[birth].norm()), rel=1e-4)


def test_an_exemplar_can_be_embedded_again_from_its_window(built, tiny_folder):
    """L8: the stored window tokens alone give the exemplar back."""
    from exemplar_partitioning.models.load import load_model

    out, _ = built
    d = ep.load(out, site="resid_post.1", percentile=2)
    loaded = load_model(str(tiny_folder))
    sites = resolve_sites("resid_post.1", loaded.architecture)
    for region in range(0, d.k, 7):
        window = np.array(d.region(region)["window_tokens"])
        x = Extractor(loaded.model, sites).extract([window])[sites[0]][-1:]
        assert d.distances(x)[0, region] < 1e-5


def test_same_input_same_bytes(built, tiny_folder, text_file, tmp_path):
    """L8, and the folder's place does not matter."""
    ep.build(str(tiny_folder), [text_file], out=tmp_path / "deep" / "er", **OPTIONS)
    assert tree(tmp_path / "deep" / "er") == tree(built[0])


def test_companions_do_not_matter(built, tiny_folder, text_file, tmp_path):
    """A dictionary built alone is the one built beside other sites and percentiles."""
    ep.build(str(tiny_folder), [text_file], out=tmp_path, **OPTIONS | {"sites": "resid_post.1", "percentiles": [10]})
    alone, together = (load_bytes(folder / "resid_post.1" / "p10") for folder in (tmp_path, built[0]))
    assert alone == together


def load_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_budget_counts_text_tokens_and_a_longer_build_begins_with_the_shorter(built, tiny_folder, text_file, tmp_path):
    options = OPTIONS | {"sites": "resid_post.1", "max_tokens": 3000, "saturation_window": 10**6}
    short = ep.build(str(tiny_folder), [text_file], out=tmp_path / "short", **options)
    long = ep.build(str(tiny_folder), [text_file], out=tmp_path / "long", **options | {"max_tokens": 6000})
    assert 3000 - 32 < short.tokens <= 3000 < long.tokens <= 6000
    for p in (2, 10):
        a, b = ep.load(tmp_path / "short", percentile=p), ep.load(tmp_path / "long", percentile=p)
        assert a.config.build.stopped == b.config.build.stopped == "budget"
        assert a.config.build.n_activations == short.tokens  # every token but BOS gives an activation
        assert b.k > a.k and b.regions.column("arrival_index")[: a.k] == a.regions.column("arrival_index")
        torch.testing.assert_close(b.exemplars[: a.k], a.exemplars)  # the last batch differs in shape, so in bits


def test_saturation_counts_activations(built):
    """L5: stopped exactly `window` activations after the last exemplar, at no multiple of anything."""
    for d in (ep.load(built[0], site=f"resid_post.{i}", percentile=p) for i in (0, 1) for p in (2, 10)):
        last = int(d.regions.column("arrival_index")[-1].as_py())
        build = d.config.build
        if build.stopped == "saturated":
            assert build.n_activations == last + 1 + 4000
        else:
            assert build.stopped == "text" and build.n_activations < last + 1 + 4000
        assert sum(d.regions.column("arrivals").to_pylist()) + build.skipped == build.n_activations
        assert build.growth[-1] == (build.n_activations, d.k)
    assert {d.stopped for d in built[1].dictionaries} >= {"saturated"}


def test_until_unseen_stops_where_the_upper_limit_and_the_last_window_say(tiny_folder, text_file, tmp_path):
    options = OPTIONS | {"sites": "resid_post.1", "percentiles": [2], "saturation_window": 1000}
    ep.build(str(tiny_folder), [text_file], out=tmp_path, until_unseen=0.02, **options)
    d = ep.load(tmp_path)
    assert d.config.build.stopped == "unseen"
    assert d.config.build.n_activations % 1000 == 0
    assert d.config.build.unseen.high <= 0.02
    (before, k), (after, last) = [(0, 0), *d.config.build.growth][-2:]
    assert (last - k) / (after - before) <= 0.02
    assert len(d.config.build.growth) == d.config.build.n_activations // 1000


def test_special_tokens_inside_a_text_never_become_exemplars(tiny_folder, tmp_path):
    texts = [f"the dog </s> {text} <pad> fox" for text in sentences(150, seed=3)]
    ep.build(str(tiny_folder), texts, out=tmp_path, **OPTIONS | {"sites": "resid_post.1"})
    for p in (2, 10):
        ids = ep.load(tmp_path, percentile=p).regions.column("token_id").to_pylist()
        assert not {0, 1, 2} & set(ids)


def test_activations_that_are_not_finite_are_counted_or_refused(tiny_folder, tmp_path):
    from exemplar_partitioning.models.load import load_model

    loaded = load_model(str(tiny_folder))
    bad = loaded.tokenizer(" king", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[bad] = float("nan")
    texts = sentences(200, seed=4)
    texts[::3] = [text.replace("king", "fox") for text in texts[::3]]
    options = OPTIONS | {"sites": "resid_pre.0", "percentiles": (10.0,)}  # tokens alone repeat
    ep.build(loaded, texts, out=tmp_path / "a", **options)
    d = ep.load(tmp_path / "a", percentile=10)
    assert d.config.build.skipped > 0
    assert bad not in d.regions.column("token_id").to_pylist()
    assert torch.isfinite(d.exemplars).all()
    with pytest.raises(EPError, match="have no direction"):
        ep.build(loaded, texts, out=tmp_path / "b", strict=True, **options)


def test_stop_saves_and_resume_ends_in_the_same_bytes(long_built, tiny_folder, text_file, tmp_path):
    """Interrupted again and again, from the first batches to the last chunk, also while the spill is clustered."""
    stops, seen = 0, []
    while True:
        asked = iter(range(12))  # a chunk has 8 batches; a stop loses the chunk it falls in

        def stop(asked=asked):
            return next(asked, None) is None or (seen and seen[-1] in ("calibrated", "dictionary"))

        try:
            ep.build(
                str(tiny_folder),
                [text_file],
                out=tmp_path,
                resume=True,
                checkpoint_seconds=0.0,
                stop=stop,
                on_event=lambda event: seen.append(event.kind),
                **LONG,
            )
            break
        except Interrupted as stopped:
            stops += 1
            assert "--resume" in str(stopped)
    assert stops >= 4 and "calibrated" in seen
    assert tree(tmp_path) == tree(long_built)


@pytest.mark.parametrize("chunks", range(1, 6))
def test_every_checkpoint_is_a_place_to_go_on_from(long_built, tiny_folder, text_file, tmp_path, chunks):
    """Stopped right after the given number of clustered chunks: the spill has three, the stream six."""
    saved = 0

    def stop():
        return saved > chunks

    def count(event):
        nonlocal saved
        saved += event.kind == "checkpoint" and bool(event.dictionaries)

    options = LONG | {"checkpoint_seconds": 0.0}
    with pytest.raises(Interrupted):
        ep.build(str(tiny_folder), [text_file], out=tmp_path, stop=stop, on_event=count, **options)
    ep.build(str(tiny_folder), [text_file], out=tmp_path, resume=True, **options)
    assert tree(tmp_path) == tree(long_built)


def _build(folder, text, out, options):
    torch.set_num_threads(1)
    ep.build(folder, [text], out=out, resume=True, checkpoint_seconds=0.0, **options)


def test_killed_at_any_instant_ends_in_the_same_bytes(long_built, tiny_folder, text_file, tmp_path):
    """L9: kill -9 at random moments, resume each time, until the build is through."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exemplar_partitioning.building", "transformers.models.llama.modeling_llama"])

    def start(out):
        process = context.Process(target=_build, args=(str(tiny_folder), text_file, tmp_path / out, LONG))
        process.start()
        return process

    for out in ("first", "whole"):  # the first also starts the server that the others are forked from
        begun = time.monotonic()
        process = start(out)
        process.join()
        assert process.exitcode == 0
        took = time.monotonic() - begun
    rng, killed, folders = random.Random(0), 0, ["whole"]
    while killed < 4:  # many more: `python -m benchmarks.faults killed`
        folders.append(f"killed-{len(folders)}")
        while True:
            process = start(folders[-1])
            process.join(rng.uniform(0.05, took))
            if process.exitcode is not None:
                assert process.exitcode == 0
                break
            process.kill()
            process.join()
            killed += 1
    assert all(tree(tmp_path / folder) == tree(long_built) for folder in folders)


def test_a_finished_build_is_left_alone(built, tiny_folder, text_file):
    out, result = built
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = ep.build(str(tiny_folder), [text_file], out=out, resume=True, **OPTIONS)
    assert again.dictionaries == result.dictionaries
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if ".build" not in path.parts}
    assert {path: at for path, at in after.items() if path.is_file()} == {
        path: at for path, at in before.items() if path.is_file()
    }


class TestRefusals:
    """Each names what was given and what to do, and leaves the folder as it was."""

    def test_a_folder_that_holds_a_build(self, built, tiny_folder, text_file):
        before = tree(built[0])
        with pytest.raises(EPError, match=r"already holds a finished build of .*tiny-llama.*--resume.*--out"):
            ep.build(str(tiny_folder), [text_file], out=built[0], **OPTIONS)
        assert tree(built[0]) == before

    def test_a_resume_with_other_settings_names_them(self, built, tiny_folder, text_file):
        with pytest.raises(EPError, match=r"seed: 5 here, 0 there.*context_size: 16 here, 32 there|context_size.*seed"):
            ep.build(
                str(tiny_folder),
                [text_file],
                out=built[0],
                resume=True,
                **OPTIONS | {"seed": 5, "context_size": 16},
            )

    def test_a_resume_with_another_text(self, tiny_folder, text_file, tmp_path):
        countdown = iter([False] * 30)
        with pytest.raises(Interrupted):
            ep.build(str(tiny_folder), [text_file], out=tmp_path / "o", stop=lambda: next(countdown, True), **OPTIONS)
        (tmp_path / "corpus.jsonl").write_bytes(text_file.read_bytes().replace(b"dog", b"god"))
        with pytest.raises(EPError, match="is not the text this build began with"):
            ep.build(str(tiny_folder), [tmp_path / "corpus.jsonl"], out=tmp_path / "o", resume=True, **OPTIONS)

    def test_a_resume_with_less_text(self, tiny_folder, text_file, tmp_path):
        asked = iter(range(30))
        path = tmp_path / "corpus.jsonl"
        path.write_bytes(text_file.read_bytes())
        options = LONG | {"shuffle_buffer": 0}
        with pytest.raises(Interrupted):
            ep.build(str(tiny_folder), [path], out=tmp_path / "o", stop=lambda: next(asked, None) is None, **options)
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:120]))
        with pytest.raises(EPError, match="is not the text this build began with"):
            ep.build(str(tiny_folder), [path], out=tmp_path / "o", resume=True, **options)

    def test_a_folder_with_other_things_in_it(self, tiny_folder, text_file, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")
        with pytest.raises(EPError, match="not empty and holds no build"):
            ep.build(str(tiny_folder), [text_file], out=tmp_path, **OPTIONS)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_two_builds_at_once(self, tiny_folder, text_file, tmp_path):
        refused = []

        def second(event):
            if event.kind == "start":
                with pytest.raises(EPError, match="another process is building"):
                    ep.build(str(tiny_folder), [text_file], out=tmp_path, resume=True, **OPTIONS)
                refused.append(event)

        ep.build(str(tiny_folder), [text_file], out=tmp_path, on_event=second, **OPTIONS)
        assert refused

    def test_too_little_text(self, tiny_folder, tmp_path):
        with pytest.raises(EPError, match=r"activations from \d+ tokens; distances need 2"):
            ep.build(str(tiny_folder), ["dog"], out=tmp_path / "a", **OPTIONS)
        with pytest.raises(EPError, match="gave no text to read"):
            ep.build(str(tiny_folder), ["", "  "][:1], out=tmp_path / "b", **OPTIONS)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sites": "resid_post.7"}, "resid_post.7"),
            ({"percentiles": [0]}, "percentiles must lie between 0 and 100"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"until_unseen": 2.0}, "until_unseen"),
        ],
    )
    def test_settings_that_make_no_sense(self, tiny_folder, text_file, tmp_path, change, message):
        with pytest.raises(EPError, match=message):
            ep.build(str(tiny_folder), [text_file], out=tmp_path / "o", **OPTIONS | change)
        assert not (tmp_path / "o").exists()

    def test_an_empty_working_folder_is_no_obstacle(self, tiny_folder, text_file, tmp_path):
        (tmp_path / "o" / ".build").mkdir(parents=True)
        (tmp_path / "o" / ".build" / "lock").touch()
        ep.build(str(tiny_folder), [text_file], out=tmp_path / "o", **OPTIONS)

    def test_a_damaged_checkpoint(self, tiny_folder, text_file, tmp_path):
        countdown = iter([False] * 30)
        with pytest.raises(Interrupted):
            ep.build(str(tiny_folder), [text_file], out=tmp_path, stop=lambda: next(countdown, True), **OPTIONS)
        (arrays,) = (tmp_path / ".build").glob("checkpoint-*/arrays.npz")
        arrays.write_bytes(arrays.read_bytes()[:-1] + b"?")
        with pytest.raises(EPError, match=r"checkpoint .* is damaged .*start again"):
            ep.build(str(tiny_folder), [text_file], out=tmp_path, resume=True, **OPTIONS)


def test_regions_file_is_readable_by_anyone(built):
    """Plain parquet: no package of ours needed."""
    table = pq.read_table(built[0] / "resid_post.1" / "p10" / "regions.parquet")
    assert table.column("region").to_pylist() == list(range(len(table)))


CHAT = "{% for message in messages %}<s>{{ message['content'] }}{% endfor %} answer"


@pytest.fixture(scope="module")
def chatty(tiny_folder):
    loaded = ep.load_model(str(tiny_folder))
    loaded.tokenizer.chat_template = CHAT
    return loaded


def test_chat_prompts_at_their_last_position(chatty, tmp_path):
    """One activation a prompt: that of the last token of the template around it, as the model itself gives it."""
    prompts = [f"say {word} and {word} again" for word in WORDS[:10]]
    result = ep.build(
        chatty,
        prompts,
        out=tmp_path / "out",
        sites="resid_post.1",
        percentiles=[10],
        chat=True,
        positions="last",
        shuffle_buffer=0,
        calibration_batch=10,
    )
    (summary,) = result.dictionaries
    assert summary.n_activations == len(prompts)
    dictionary = ep.load(tmp_path / "out")
    ids_n = []
    for prompt in prompts:
        ids = chatty.tokenizer(f"<s>{prompt} answer", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            x_d = chatty.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0, -1]
        region_1, distance_1 = dictionary.assign(x_d[None])
        assert distance_1[0] <= dictionary.threshold
        ids_n.append(int(region_1[0]))
    assert (
        dictionary.regions.column("window_tokens")[0].as_py()
        == chatty.tokenizer(f"<s>{prompts[0]} answer", add_special_tokens=False)["input_ids"]
    )
    (annotated,) = ep.annotate(tmp_path / "out", prompts, model=chatty)
    assert annotated.annotation.regions.column("members").to_pylist() == [
        ids_n.count(region) for region in range(dictionary.k)
    ]


def test_chat_wants_a_template_and_positions_a_name(tiny_folder, tmp_path):
    with pytest.raises(EPError, match="no chat template"):
        ep.build(str(tiny_folder), ["a prompt"], out=tmp_path / "a", chat=True, calibration_batch=2)
    with pytest.raises(EPError, match=r"positions: String should match pattern '\^\(all\|first\|last.*; got nowhere"):
        ep.build(str(tiny_folder), ["a prompt"], out=tmp_path / "b", positions="nowhere", calibration_batch=2)


DATED = "{{ strftime_now('%d %b %Y') }}: " + CHAT


@pytest.fixture
def dated(tiny_folder):
    loaded = ep.load_model(str(tiny_folder))
    loaded.tokenizer.chat_template = DATED
    return loaded


def test_a_build_in_a_dated_template_goes_on_with_its_day(dated, tmp_path, monkeypatch):
    prompts = [f"prompt {i} of some words" for i in range(300)]
    asked = {"sites": "resid_post.1", "percentiles": [10], "chat": True, "calibration_batch": 512, "resume": True}

    def on(day: str, out: str, **options):
        monkeypatch.setattr("exemplar_partitioning.building.run.template_date", lambda tokenizer: day)
        return ep.build(dated, prompts, out=tmp_path / out, **asked, **options)

    (whole,) = on("2026-11-27", "whole").dictionaries
    calls = itertools.count()
    with pytest.raises(Interrupted):
        on("2026-11-27", "resumed", stop=lambda: next(calls) > 3, checkpoint_seconds=0.0)
    on("2026-12-03", "resumed")
    on("2026-12-03", "another")
    name = f"{whole.site}/p10/exemplars.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    records = [ep.load(tmp_path / out).config.text for out in ("whole", "resumed", "another")]
    assert [record.template_date for record in records] == ["2026-11-27", "2026-11-27", "2026-12-03"]
    assert records[0].digest == records[1].digest != records[2].digest
    # Read and annotated on the day of the build, not on the day it is.
    dictionary = ep.load(tmp_path / "whole")
    (readings,) = read([dictionary], dated, prompts[0])
    day = dated.tokenizer("27 Nov 2026: <s>", add_special_tokens=False)["input_ids"]
    assert [token.token_id for token in readings][: len(day)] == day
    (annotated,) = ep.annotate(tmp_path / "whole", prompts, model=dated)
    within_k = annotated.annotation.regions.column("within").to_pylist()
    assert sum(within_k) == dictionary.config.build.n_activations
    assert annotated.annotation.record.text.template_date == "2026-11-27"
    assert annotated.annotation.record.text.digest == records[0].digest


def test_conversations_are_built_from_in_the_template_alone(chatty, tmp_path):
    rows = [{"prompt": f"prompt {i}", "response": f"answer {i}"} for i in range(200)]
    with pytest.raises(EPError, match="document 0 is a conversation; pass chat=True"):
        ep.build(chatty, rows, out=tmp_path / "plain", calibration_batch=64, context_size=64)
