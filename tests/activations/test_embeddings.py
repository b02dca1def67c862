"""Embeddings of other things than tokens: pictures and sentences, whose rows are named by file or by what they are."""

import re
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.cli import app
from exemplar_partitioning.demo.corpus import documents_of, genre_of
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder.invariants import check


def images(folder):
    """Handwritten digits by their principal components; which digit each is."""
    digits = load_digits()
    embedded = PCA(32, whiten=True, random_state=0).fit_transform(digits.data).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(embedded))  # the stream is to be mixed
    np.save(folder / "digits.npy", embedded[order])
    return folder / "digits.npy", digits.target[order]


def sentences(folder):
    """Openings of documents by latent semantic analysis, beside themselves; the genre of each."""
    read = list(islice(documents_of(None), 1200))
    texts = [" ".join(document.text.split()[:40]) for document in read]
    genres = [genre_of(re.split("[/:]", document.id)[1]) for document in read]
    words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    embedded = TruncatedSVD(48, random_state=0).fit_transform(words).astype(np.float32)
    table = pa.table({"document": texts, "embedding": list(embedded)})
    pq.write_table(table, folder / "sentences.parquet")
    return folder / "sentences.parquet", np.array(genres)


@pytest.mark.parametrize("made", [images, sentences])
def test_embeddings_of_any_modality(tmp_path, made):
    path, kind_n = made(tmp_path)
    out = tmp_path / "o"
    ep.build_from_activations(path, out=out, percentiles=[2, 8], annotate=True)
    d, coarse = (check(ep.load(out, percentile=percentile).path) for percentile in (2, 8))

    # regions hold one kind of thing each: more than the same regions of shuffled kinds
    x = np.load(path) if made is images else np.array(pq.read_table(path)["embedding"].to_pylist(), np.float32)
    region_n = d.assign(x)[0]
    shuffled_n = np.random.default_rng(1).permutation(kind_n)
    pure, chance = (
        sum(np.unique(of[region_n == region], return_counts=True)[1].max() for region in np.unique(region_n))
        for of in (kind_n, shuffled_n)
    )
    assert pure > 1.3 * chance

    # a region is named by the row that anchors it, or by what the row is
    at = d.regions["arrival_index"].to_pylist()
    name = f"digits.npy:{at[1]}" if made is images else pq.read_table(path)["document"][at[1]].as_py()
    assert d.region(1)["document"] == d.annotation.examples(1)[0]["document"] == name
    assert d.region(1)["token_id"] == -1

    # what needs neither text nor model works; what needs one says so
    assert ep.match(d, coarse).summary()["persisted"]
    assert len(ep.tree([d, coarse]).levels) == 2
    left = d.decompose(x[:50], k=8).residual_norm
    assert (left < np.linalg.norm(x[:50] - d.center.numpy(), axis=1)).all()
    place, page, vectors = str(d.path), str(tmp_path / "report.html"), str(tmp_path / "vectors")
    commands = (["show", place, "--region", "1"], ["report", place, "--out", page])
    for command in (*commands, ["export", place, "--to", "sparsify", "--out", vectors]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    with pytest.raises(EPError, match="place that is not known"):
        ep.Detector.fit(d, ["a text"])
