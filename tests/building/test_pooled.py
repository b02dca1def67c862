"""One activation a document: the mean of its tokens that count, whatever the chunks, and read and annotated alike."""

import numpy as np
import pytest
import torch

import exemplar_partitioning as ep
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.sites import resolve_sites
from exemplar_partitioning.ray.wire import Windows
from exemplar_partitioning.stream import extract, text_chunks
from exemplar_partitioning.text.readers import Document
from exemplar_partitioning.text.windowing import Windowing

OPTIONS = {"sites": "resid_post.1", "percentiles": (20,), "context_size": 16, "pool": "mean"}


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return ep.load_model(str(tiny_folder))


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(["the dog sat", "red house", "on a mat", "we saw it"][i] for i in rng.integers(0, 4, n))
            for n in rng.integers(1, 40, 60)]  # fmt: skip


def means(loaded, texts, **options):
    """Each document's mean, by the slow way: all of its windows on their own."""
    (site,) = resolve_sites("resid_post.1", loaded.architecture)
    extractor, windowing = Extractor(loaded.model, [site]), Windowing(context_size=16, shuffle_buffer=0, **options)
    for number, text in enumerate(texts):
        rows = [extract(extractor, chunk, lambda _: None)[site].clone()
                for chunk in text_chunks([Document(str(number), text)], loaded, windowing, 10**9)]  # fmt: skip
        yield torch.cat(rows).double().mean(0).numpy()


@pytest.mark.parametrize("options", [{}, {"positions": "every:3"}, {"seed": 3, "shuffle_buffer": 5}])
def test_rows_are_the_means_of_documents(loaded, texts, options):
    (site,) = resolve_sites("resid_post.1", loaded.architecture)
    extractor, windowing = Extractor(loaded.model, [site]), Windowing(context_size=16, pool="mean", **options)
    expected = dict(enumerate(means(loaded, texts, positions=options.get("positions", "all"))))
    seen = []
    for chunk in text_chunks([Document(str(i), text) for i, text in enumerate(texts)], loaded, windowing, 10**9):
        x_nd = extract(extractor, chunk, lambda _: None)[site]
        assert len(x_nd) == len(chunk.kept)
        for row, x_d in enumerate(x_nd.numpy()):
            document, position, ids = chunk.token(row)
            seen.append(int(document))
            assert np.allclose(x_d, expected[int(document)], atol=1e-5)
            assert position < 1000 and len(ids)
    assert sorted(seen) == list(range(len(texts)))


def test_a_long_document_is_pooled_in_parts(loaded):
    windowing = Windowing(context_size=2, pool="mean")
    (chunk, *more) = text_chunks([Document("long", "dog " * 400)], loaded, windowing, 10**9)
    assert sum(len(each.kept) for each in [chunk, *more]) == -(-sum(len(c.windows) for c in [chunk, *more]) // 128)


def test_builds_and_annotations_know_documents(loaded, texts, tmp_path):
    result = ep.build(loaded, texts, out=tmp_path / "out", **OPTIONS)
    d = ep.load(result.path)
    assert d.config.build.n_activations == len(texts) and d.config.text.pool == "mean"
    assert d.config.schema_version == "1.1"
    ep.annotate(tmp_path / "out", texts, model=loaded)
    assert ep.load(result.path).annotation.record.n_activations == len(texts)
    reading = ep.read(d, texts[3], loaded)
    (expected,) = means(loaded, [texts[3]])
    region, distance = d.assign(expected[None].astype(np.float32))
    assert {token.region for token in reading} == {int(region[0])}
    assert reading[0].distance == pytest.approx(float(distance[0]), abs=1e-5)


def test_at_most_so_many_documents_are_read(loaded, texts, tmp_path):
    result = ep.build(loaded, texts, out=tmp_path / "out", documents=20, **OPTIONS)
    assert result.dictionaries[0].n_activations == 20


def test_a_worker_pools_as_the_owner_would(loaded, texts):
    (site,) = resolve_sites("resid_post.1", loaded.architecture)
    extractor, windowing = Extractor(loaded.model, [site]), Windowing(context_size=16, pool="mean", positions="every:3")
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    for chunk in text_chunks(documents, loaded, windowing, 10**9):
        here, there = (extract(extractor, each, lambda _: None)[site] for each in (chunk, Windows.of(chunk).chunk))
        assert torch.equal(here, there)


def test_pooled_dictionaries_grow_on(loaded, texts, tmp_path):
    ep.build(loaded, texts[:30], out=tmp_path / "old", **OPTIONS)
    ((old, new),) = ep.extend(tmp_path / "old", texts[30:], model=loaded, out=tmp_path / "new")
    assert new.config.build.n_activations == old.config.build.n_activations + len(texts[30:])
