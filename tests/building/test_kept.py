"""One pass for everything: activations that a build leaves, read by an annotation in place of the model (law L9)."""

import json

import pytest

import exemplar_partitioning as ep
from conftest import sentences, tree
from exemplar_partitioning.errors import DataError, EPError, Interrupted
from exemplar_partitioning.folder.activations import Kept
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.load import load_model

OPTIONS = {
    "sites": "resid_post.0,resid_post.1",
    "percentiles": [10],
    "calibration_batch": 500,
    "calibration_sample": 5000,
    "saturation_window": 10**6,
    "context_size": 32,
    "shuffle_buffer": 50,
}


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return load_model(str(tiny_folder))


@pytest.fixture
def passes(monkeypatch):
    """Counts the windows that go through the model."""
    seen = [0]
    extract = Extractor.extract

    def counted(self, windows, *rest):
        seen[0] += len(windows)
        return extract(self, windows, *rest)

    monkeypatch.setattr(Extractor, "extract", counted)
    return seen


def evidence(out):
    return {name: data for name, data in tree(out).items() if "annotation" in name}


def test_an_annotation_of_what_calibrated_needs_no_pass_and_has_the_same_bytes(loaded, text_file, tmp_path, passes):
    ep.build(loaded, [text_file], out=tmp_path / "a", keep_activations="calibration", **OPTIONS)
    kept = Kept.beside(tmp_path / "a")
    assert kept is not None and not kept.lasting
    assert 5000 <= kept.spill.n < kept.spill.tokens + 1  # the last chunk that calibrates is whole
    before = passes[0]
    ep.annotate(tmp_path / "a", [text_file], model=loaded, max_tokens=kept.spill.tokens)
    assert passes[0] == before
    assert not (tmp_path / "a" / "activations").exists()

    ep.build(loaded, [text_file], out=tmp_path / "b", **OPTIONS)
    assert not (tmp_path / "b" / "activations").exists()
    ep.annotate(tmp_path / "b", [text_file], model=loaded, max_tokens=kept.spill.tokens)
    assert passes[0] > before
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_from_python_a_build_ends_annotated_behind_a_bar(loaded, text_file, tmp_path, capsys, passes):
    given = OPTIONS | {"out": tmp_path / "a", "max_tokens": 9000}
    result = ep.build(loaded, [text_file], annotate=True, progress=True, **given)
    bar = capsys.readouterr().err
    assert "regions=" in bar and "tokens/s" in bar and bar.endswith("\n")
    once, record = passes[0], ep.load(tmp_path / "a", site="resid_post.0").annotation.record
    assert 0 < record.n_activations <= result.tokens
    ep.build(loaded, [text_file], **given | {"out": tmp_path / "b"})
    assert once == passes[0] - once and capsys.readouterr().err == ""
    assert {name: data for name, data in tree(tmp_path / "a").items() if name in tree(tmp_path / "b")} == tree(
        tmp_path / "b"
    )


def test_all_are_kept_for_good_and_text_beyond_them_is_extracted(loaded, text_file, tmp_path, passes):
    result = ep.build(loaded, [text_file], out=tmp_path / "a", keep_activations="all", max_tokens=9000, **OPTIONS)
    kept = Kept.beside(tmp_path / "a")
    assert kept is not None and kept.spill.tokens == result.tokens
    ep.build(loaded, [text_file], out=tmp_path / "b", max_tokens=9000, **OPTIONS)
    before = passes[0]
    for out in ("a", "b"):
        ep.annotate(tmp_path / out, [text_file], model=loaded, max_tokens=9000)
        if out == "a":
            assert passes[0] == before
    assert evidence(tmp_path / "a") == evidence(tmp_path / "b")
    before = passes[0]
    for out in ("a", "b"):
        ep.annotate(tmp_path / out, [text_file], model=loaded, max_tokens=12_000, replace=True)
    assert passes[0] > before
    assert evidence(tmp_path / "a") == evidence(tmp_path / "b")
    assert Kept.beside(tmp_path / "a") is not None


@pytest.mark.parametrize("keep", ["calibration", "all"])
def test_interrupted_builds_keep_what_undisturbed_ones_do(loaded, text_file, tmp_path, keep):
    options = OPTIONS | {"keep_activations": keep, "checkpoint_seconds": 0.0}
    ep.build(loaded, [text_file], out=tmp_path / "whole", **options)
    stops = 0
    while True:
        asked = iter(range(20))
        try:
            ep.build(
                loaded,
                [text_file],
                out=tmp_path / "parts",
                resume=True,
                stop=lambda asked=asked: next(asked, None) is None,
                **options,
            )
            break
        except Interrupted:
            stops += 1
    assert stops >= 3
    files = [tree(tmp_path / out / "activations") for out in ("whole", "parts")]
    assert files[0] and files[0] == files[1]


def test_killed_between_leaving_them_and_being_done(loaded, text_file, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    options = OPTIONS | {"keep_activations": "all", "checkpoint_seconds": 0.0}
    ep.build(loaded, [text_file], out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("exemplar_partitioning.building.run._write_log", kill)
        ep.build(loaded, [text_file], out=tmp_path / "killed", **options)
    assert (tmp_path / "killed" / "activations").is_dir()
    ep.build(loaded, [text_file], out=tmp_path / "killed", resume=True, **options)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_activations_of_another_text_or_model_are_not_taken(loaded, text_file, tmp_path, passes):
    ep.build(loaded, [text_file], out=tmp_path, keep_activations="all", max_tokens=6000, **OPTIONS)
    before = passes[0]
    other = sentences(200, seed=5)
    ep.annotate(tmp_path, other, model=loaded, max_tokens=3000)
    assert passes[0] > before
    kept = Kept.beside(tmp_path)
    assert kept is not None
    assert kept.serves(loaded.info.fingerprint, ["resid_post.0"])
    assert not kept.serves("another", ["resid_post.0"]) and not kept.serves(loaded.info.fingerprint, ["resid_post.9"])


def test_altered_activations_are_refused(loaded, text_file, tmp_path):
    ep.build(loaded, [text_file], out=tmp_path, keep_activations="all", max_tokens=6000, **OPTIONS)
    file = tmp_path / "activations" / "resid_post.1.f32"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="the model runs in its place"):
        ep.annotate(tmp_path, [text_file], model=loaded, max_tokens=3000)
    record = tmp_path / "activations" / "activations.json"
    record.write_text(json.dumps({"sites": 3}))
    with pytest.raises(DataError, match="is damaged"):
        ep.annotate(tmp_path, [text_file], model=loaded, max_tokens=3000)


def test_a_cluster_keeps_only_what_calibrates(loaded, text_file, tmp_path):
    with pytest.raises(EPError, match="leave out ray"):
        ep.build(loaded, [text_file], out=tmp_path / "a", keep_activations="all", ray="local", **OPTIONS)
