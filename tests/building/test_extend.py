"""Growing on (L10): the same as one stream of both texts; ids never move."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import exemplar_partitioning as ep
from cli.test_cli import run
from conftest import sentences, tree
from exemplar_partitioning.building import run as run_module
from exemplar_partitioning.building.extend import extend
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.missing_mass import missing_mass
from exemplar_partitioning.errors import EPError, Interrupted, ResourceError
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.folder.listing import find
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.identity import special_token_ids
from exemplar_partitioning.models.sites import resolve_sites
from exemplar_partitioning.stream import extract, text_chunks
from exemplar_partitioning.text.documents import read_documents

OPTIONS = {"sites": "resid_post.1", "percentiles": (3, 10), "calibration_batch": 500, "context_size": 32}


@pytest.fixture(scope="module")
def built(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("extend") / "d"
    ep.build(str(tiny_folder), sentences(150, seed=1), out=out, **OPTIONS)
    return out


@pytest.fixture(scope="module")
def new_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("new") / "new.jsonl"
    words = [f"{text} 17 * {n} == {17 * n}" for n, text in enumerate(sentences(80, seed=2))]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in words))
    return path


def test_it_is_the_stream_of_both_texts(built, tiny_folder, new_text, tmp_path):
    grown = extend(built, new_text, out=tmp_path / "e", model=str(tiny_folder))
    loaded = ep.load_model(str(tiny_folder))
    extractor = Extractor(loaded.model, resolve_sites("resid_post.1", loaded.architecture))
    assert [old.config.calibration.percentile for old, _ in grown] == [3, 10]
    for old, new in grown:
        windowing = old.config.text.windowing
        clustering = LeaderClustering(old.center, old.threshold)
        for documents in (sentences(150, seed=1), new_text):
            for chunk in text_chunks(read_documents(documents), loaded, windowing, 10**6):
                (x_nd,) = extract(extractor, chunk, lambda _: None).values()
                clustering.add(x_nd)
        assert torch.equal(new.exemplars, clustering.exemplars) and new.k > old.k
        assert torch.equal(new.center, old.center) and new.threshold == old.threshold
        assert (new.regions["arrivals"].to_numpy() == clustering.online_counts).all()
        assert (new.regions["arrival_index"].to_numpy() == clustering.births).all()
        before, after = old.regions.drop_columns("arrivals"), new.regions.drop_columns("arrivals")
        assert after.slice(0, old.k).equals(before)  # ids never move
        assert set(after["document"].to_pylist()[old.k :]) <= {f"new.jsonl:{i}" for i in range(80)}
        assert new.config.build.n_activations == clustering.position
        mass = missing_mass(clustering.sole_counts, clustering.position - clustering.skipped)
        assert new.config.build.unseen.model_dump() == asdict(mass) and 0 < mass.estimate < 1
        assert new.config.text.source == "strings, then new.jsonl"
        special = np.array(sorted(special_token_ids(loaded.tokenizer)))
        assert not np.isin(new.regions["token_id"].to_numpy(), special).any()


def test_nothing_new(built, tiny_folder, tmp_path):
    shutil.copytree(built, tmp_path / "old")
    for file in (tmp_path / "old").rglob("sole_covers.json"):  # as from an earlier version
        file.unlink()
    for old, new in extend(tmp_path / "old", sentences(150, seed=1)[:20], out=tmp_path / "e", model=str(tiny_folder)):
        assert torch.equal(old.exemplars, new.exemplars) and new.config.build.unseen.estimate == 0
        assert not (new.path / "sole_covers.json").exists()
    again = extend(tmp_path / "e", sentences(150, seed=1)[:20], out=tmp_path / "f", model=str(tiny_folder))
    assert [new.k for _, new in again] == [old.k for old, _ in again]


def test_what_does_not_fit_is_named(built, tiny_folder, new_text, tmp_path):
    with pytest.raises(EPError, match="holds a dictionary already"):
        extend(built, new_text, out=built, model=str(tiny_folder))
    with pytest.raises(EPError, match="gave no text"):
        extend(built, [""], out=tmp_path / "e", model=str(tiny_folder))
    assert not (tmp_path / "e").exists()


def test_interrupted_it_goes_on_to_the_same_bytes(built, tiny_folder, new_text, tmp_path):
    extend(built, new_text, out=tmp_path / "whole", model=str(tiny_folder))
    given = {"out": tmp_path / "e", "model": str(tiny_folder), "checkpoint_seconds": 0.0}
    for batches in (3, 6, 8):
        asked = iter(range(batches))
        with pytest.raises(Interrupted, match="--resume"):
            extend(built, new_text, resume=True, stop=lambda asked=asked: next(asked, None) is None, **given)
        assert find(tmp_path / "e") == []
    with pytest.raises(EPError, match=r"unfinished build .*--resume"):
        extend(built, new_text, **given)
    with pytest.raises(EPError, match="other settings: max_tokens"):
        extend(built, new_text, resume=True, max_tokens=10, **given)
    extend(built, new_text, resume=True, **given)
    assert tree(tmp_path / "e") == tree(tmp_path / "whole")
    record = json.loads((tmp_path / "e" / "build.json").read_bytes())
    assert record["format"] == "exemplar-partitioning/extend" and len(record["settings"]["sources"]) == 2
    with pytest.raises(EPError, match="is of `ep extend`, not of `ep build`"):
        ep.build(str(tiny_folder), sentences(150, seed=1), out=tmp_path / "e", resume=True, **OPTIONS)
    again = extend(built, new_text, resume=True, **given)  # it is there, and says so
    assert [old.k < new.k for old, new in again] == [True, True]
    assert tree(tmp_path / "e") == tree(tmp_path / "whole")


def test_dictionaries_appear_together(built, tiny_folder, new_text, tmp_path, monkeypatch):
    """Killed at any step of the move: none of them is found before all are, and the same command ends it."""
    extend(built, new_text, out=tmp_path / "whole", model=str(tiny_folder))
    given = {"out": tmp_path / "e", "model": str(tiny_folder), "resume": True}
    rename, steps = Path.rename, iter(range(100))

    def killed(self, target):
        if Path(target).name in ("p3", "p10") and next(steps) == 1:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        extend(built, new_text, **given)
    assert (tmp_path / "e" / "resid_post.1" / "p3").is_dir() != (tmp_path / "e" / "resid_post.1" / "p10").is_dir()
    with pytest.raises(EPError, match="has not finished"):
        ep.load(tmp_path / "e", percentile=3)
    extend(built, new_text, **given)
    assert tree(tmp_path / "e") == tree(tmp_path / "whole")


def test_a_disk_full_at_the_log_leaves_what_the_same_command_ends(built, tiny_folder, new_text, tmp_path, monkeypatch):
    """Its dictionaries stood there then, without the log by which a finished build is known."""
    extend(built, new_text, out=tmp_path / "whole", model=str(tiny_folder))
    given = {"out": tmp_path / "e", "model": str(tiny_folder), "resume": True}

    def full(*_):
        raise ResourceError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "_write_log", full)
        with pytest.raises(ResourceError):
            extend(built, new_text, **given)
    with pytest.raises(EPError, match="holds a dictionary already"):
        extend(built, new_text, **given | {"resume": False})
    extend(built, new_text, **given)
    assert tree(tmp_path / "e") == tree(tmp_path / "whole")


def test_labels_by_hand_come_along(built, tiny_folder, new_text, tmp_path):
    shutil.copytree(built, tmp_path / "named")
    Labels.read(ep.load(tmp_path / "named", percentile=3)).set(1, "the river")
    (_, fine), (_, coarse) = extend(tmp_path / "named", new_text, out=tmp_path / "e", model=str(tiny_folder))
    assert Labels.read(fine).best(1).text == "the river" and Labels.read(fine).best(1).source == "hand"
    assert not Labels.read(coarse).by_hand()


def test_command(built, tiny_folder, new_text, tmp_path):
    done = run("extend", built, new_text, "--out", tmp_path / "e", "--model", tiny_folder)
    assert done.returncode == 0, done.stderr
    assert "new ones in" in done.stdout and "resid_post.1/p3" in done.stdout
    rows = json.loads(run("extend", built, new_text, "--out", tmp_path / "f", "--model", tiny_folder, "--json").stdout)
    assert [row["k"] > row["k_before"] for row in rows] == [True, True]
