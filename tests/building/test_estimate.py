"""What a build would cost, beside what it did; and trackers that follow one."""

import json
import time

import pytest
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.building import estimate as estimating
from exemplar_partitioning.building.estimate import estimate
from exemplar_partitioning.building.options import BuildRequest
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.sites import resolve_sites
from exemplar_partitioning.text.documents import read_documents


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return ep.load_model(str(tiny_folder))


def asked(out, **options):
    return BuildRequest(out=out, sites="resid_post.1", percentiles=(10, 30), context_size=32, batch_size=4, **options)


def cost(loaded, texts, request, seconds=1.0):
    return estimate(loaded, read_documents(texts), resolve_sites(request.sites, loaded.architecture), request, seconds)


def test_an_estimate_is_of_the_order_of_the_build(loaded, tmp_path, text_file):
    texts = [document.text for document in read_documents(text_file)]
    request = asked(tmp_path / "out", max_tokens=20_000, saturation_window=10**9, calibration_batch=2000)
    guess, begun = cost(loaded, texts, request), time.process_time()
    result = ep.build(loaded, texts, **dict(request))
    took = time.process_time() - begun
    assert guess.measured <= 20_000 and guess.tokens_per_second > 0
    assert guess.seconds < 30 * took + 5
    assert 0.2 < guess.regions / sum(d.k for d in result.dictionaries) < 5


def test_ten_times_the_tokens_take_ten_times_the_model(loaded, tmp_path, text_file, monkeypatch):
    texts = [document.text for document in read_documents(text_file)]
    small, large = (cost(loaded, texts, asked(tmp_path, max_tokens=n), 0.2) for n in (10**6, 10**7))
    rate = large.extraction / large.tokens * large.tokens_per_second, small.extraction / small.tokens
    assert rate[0] == pytest.approx(1) and small.tokens_per_second * rate[1] == pytest.approx(1)
    kept = cost(loaded, texts, asked(tmp_path, max_tokens=10**7, keep_activations="all"), 0.2)
    assert kept.disk > 10**6 * 4 * loaded.architecture.d_model
    request = asked(tmp_path, max_tokens=10**6)
    sites = resolve_sites(request.sites, loaded.architecture)
    once = estimating._measured(loaded, read_documents(texts), sites, request, 0.2)  # the same measurement for both
    monkeypatch.setattr(estimating, "_measured", lambda *_: once)
    small, large = (cost(loaded, texts, asked(tmp_path, max_tokens=n)) for n in (10**6, 10**7))
    assert large.extraction == pytest.approx(10 * small.extraction)
    assert small.extraction == pytest.approx(10**6 * once[2] / once[1])


def test_too_little_text_is_named(loaded, tmp_path):
    with pytest.raises(EPError, match="too little to measure"):
        cost(loaded, ["the dog"], asked(tmp_path))


def test_the_command_tells_and_builds_nothing(tiny_folder, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr("exemplar_partitioning.building.estimate.MEASURED_SECONDS", 0.2)
    options = ["--site", "resid_post.1", "--batch-size", "4", "--estimate", "--out", str(tmp_path / "o"), "--json"]
    done = CliRunner().invoke(app, ["build", str(tiny_folder), str(text_file), *options])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["seconds"] > 0 and told["tokens"] == 1_000_000 and not (tmp_path / "o").exists()


def test_trackers_that_are_not_there_are_named(tmp_path):
    with pytest.raises(EPError, match="expected tensorboard, wandb, trackio"):
        ep.tracker("mlflow", tmp_path)


def test_tensorboard_follows_a_build(loaded, text_file, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = ep.tracker("tensorboard", tmp_path / "out")
    result = ep.build(loaded, text_file, **dict(asked(tmp_path / "out")) | {"on_event": told})
    log = EventAccumulator(str(tmp_path / "out-tracking")).Reload()
    last = log.Scalars("resid_post.1/p10/regions")[-1]
    assert (last.step, last.value) == (result.tokens, result.dictionaries[0].k)
