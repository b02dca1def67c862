"""Growing on (L10): the same as one stream of both texts; ids never move."""

import json

import numpy as np
import pytest
import torch

import exemplar_partitioning as ep
from cli.test_cli import run
from conftest import sentences
from exemplar_partitioning.building.extend import extend
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.errors import EPError, Interrupted
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.load import special_token_ids
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
        windowing = old.config.text
        clustering = LeaderClustering(old.center, old.threshold)
        for documents in (sentences(150, seed=1), new_text):
            for chunk in text_chunks(read_documents(documents), loaded, windowing, 10**6):
                (x_nd,) = extract(extractor, chunk, lambda _: None).values()
                clustering.add(x_nd)
        assert torch.equal(new.exemplars, clustering.exemplars) and new.k > old.k
        assert torch.equal(new.center, old.center) and new.threshold == old.threshold
        assert (new.regions["arrivals"].to_numpy() == clustering.arrivals).all()
        assert (new.regions["arrival_index"].to_numpy() == clustering.births).all()
        before, after = old.regions.drop_columns("arrivals"), new.regions.drop_columns("arrivals")
        assert after.slice(0, old.k).equals(before)  # ids never move
        assert set(after["document"].to_pylist()[old.k :]) <= {f"new.jsonl:{i}" for i in range(80)}
        assert new.config.build.n_activations == clustering.position
        assert 0 < new.config.build.unseen.estimate < 1 and new.config.text.source == "strings, then new.jsonl"
        special = np.array(sorted(special_token_ids(loaded.tokenizer)))
        assert not np.isin(new.regions["token_id"].to_numpy(), special).any()


def test_nothing_new(built, tiny_folder, tmp_path):
    for old, new in extend(built, sentences(150, seed=1)[:20], out=tmp_path / "e", model=str(tiny_folder)):
        assert torch.equal(old.exemplars, new.exemplars) and new.config.build.unseen.estimate == 0
    again = extend(tmp_path / "e", sentences(150, seed=1)[:20], out=tmp_path / "f", model=str(tiny_folder))
    assert [new.k for _, new in again] == [old.k for old, _ in again]


def test_what_does_not_fit_is_named(built, tiny_folder, new_text, tmp_path):
    with pytest.raises(EPError, match="holds a dictionary already"):
        extend(built, new_text, out=built, model=str(tiny_folder))
    with pytest.raises(Interrupted, match="nothing was written"):
        extend(built, new_text, out=tmp_path / "e", model=str(tiny_folder), stop=lambda: True)
    assert not (tmp_path / "e").exists()
    with pytest.raises(EPError, match="gave no text"):
        extend(built, [""], out=tmp_path / "e", model=str(tiny_folder))


def test_command(built, tiny_folder, new_text, tmp_path):
    done = run("extend", built, new_text, "--out", tmp_path / "e", "--model", tiny_folder)
    assert done.returncode == 0, done.stderr
    assert "new ones in" in done.stdout and "resid_post.1/p3" in done.stdout
    rows = json.loads(run("extend", built, new_text, "--out", tmp_path / "f", "--model", tiny_folder, "--json").stdout)
    assert [row["k"] > row["k_before"] for row in rows] == [True, True]
