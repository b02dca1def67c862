"""Activations that were given: every container gives the same rows, and what is not known is said to be so."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

import exemplar_partitioning as ep
from conftest import tree
from exemplar_partitioning.activations.given import Tokens, given
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import DataError, EPError, Interrupted
from exemplar_partitioning.folder.invariants import check
from exemplar_partitioning.folder.labels import Labels
from tiny_tokenizer import make_tokenizer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(640, 24)).astype(np.float32)
IDS = RNG.integers(3, 90, size=640)
EDGES = [5, 37, 100]


def rows(source):
    return torch.cat([chunk.x_nd for chunk in source.chunks(10**9)]).numpy()


def windows(source):
    return [window for chunk in source.chunks(10**9) for window in chunk.windows]


def write(folder, kind):
    path = folder / f"x.{kind.rpartition(' ')[2]}"
    match kind:
        case "npy":
            np.save(path, X)
        case "npz":
            np.savez(path, acts=X, input_ids=IDS)
        case "pt":
            torch.save({"acts": torch.from_numpy(X).reshape(20, 32, 24)}, path)
        case "list pt":
            torch.save([torch.from_numpy(part) for part in np.split(X, EDGES)], path)
        case "safetensors":
            save_file({"acts": torch.from_numpy(X)}, path)
        case "parquet":
            pq.write_table(pa.table({"acts": list(X), "document": [f"d{i // 10}" for i in range(len(X))]}), path)
        case "ragged parquet":
            columns = {"acts": np.split(X, EDGES), "token_ids": np.split(IDS, EDGES)}
            pq.write_table(pa.table({name: [a.tolist() for a in parts] for name, parts in columns.items()}), path)
        case "arrow":
            with pa.OSFile(str(path), "wb") as file:
                nested = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 24)
                table = pa.table({"acts": pa.FixedSizeListArray.from_arrays(nested, 32)})
                with pa.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(table)
        case "folder":
            path.mkdir()
            for number, part in zip((1, 2, 10), np.array_split(X, 3), strict=True):
                np.save(path / f"shard_{number}.npy", part)
    return path


KINDS = ("npy", "npz", "pt", "list pt", "safetensors", "parquet", "ragged parquet", "arrow", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_gives_the_rows_it_holds(tmp_path, kind):
    source = given(write(tmp_path, kind))
    np.testing.assert_array_equal(rows(source), X)
    found = np.concatenate([window.ids for window in windows(source)])
    np.testing.assert_array_equal(found, IDS if kind in ("npz", "ragged parquet") else np.full(640, -1))


@settings(max_examples=40, deadline=None)
@over(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.booleans(), st.integers(1, 70))
def test_however_they_are_split_rows_and_ids_stay_together(sizes, with_ids, context):
    n = sum(sizes)
    x, ids = RNG.normal(size=(n, 3)).astype(np.float32), RNG.integers(0, 50, n)
    parts, at = np.split(x, np.cumsum(sizes)[:-1]), np.split(ids, np.cumsum(sizes)[:-1])
    source = given(list(zip(parts, at, strict=True)) if with_ids else parts, Tokens(context_size=context))
    np.testing.assert_array_equal(rows(source), x)
    np.testing.assert_array_equal(np.concatenate([w.ids for w in windows(source)]), ids if with_ids else -np.ones(n))
    assert max(len(window.ids) for window in windows(source)) <= (context if with_ids else 1)


def test_documents_cut_windows_and_count_positions():
    table = [("a", 5), ("b", 130), ("c", 1)]
    names = [name for name, n in table for _ in range(n)]
    from exemplar_partitioning.activations.given import Given
    from exemplar_partitioning.activations.tables import Block

    n = len(names)
    source = Given("t", lambda: iter([("t", Block(X[:n], IDS[:n], names))]), Tokens(context_size=64))
    found = [(window.document, len(window.ids)) for window in windows(source)]
    assert found == [("a", 5), ("b", 64), ("b", 64), ("b", 2), ("c", 1)]


def test_a_dictionary_is_the_estimators(tmp_path):
    ep.build_from_activations(X, out=tmp_path / "o", percentiles=[10])
    d = ep.load(tmp_path / "o")
    fitted = ep.ExemplarPartition(10).fit(X)
    np.testing.assert_array_equal(d.exemplars.numpy(), fitted.exemplars_)
    assert (d.config.schema_version, d.config.model.fingerprint, d.config.text.context_size) == ("1.1", None, None)
    assert d.region(0)["document"] == "array:0"
    ep.annotate(tmp_path / "o", activations=X)
    d = ep.load(tmp_path / "o")
    members = np.bincount(fitted.labels_, minlength=d.k)
    np.testing.assert_array_equal(d.annotation.regions["members"].to_numpy(), members)
    nearest = d.annotation.examples(0)[0]
    assert (nearest["document"], nearest["token_ids"], nearest["tokens"]) == ("array:0", [-1], [""])
    check(d.path)


def test_killed_and_gone_on_ends_in_the_same_bytes(tmp_path):
    x = np.cumsum(RNG.normal(size=(40_000, 8)), axis=0).astype(np.float32)
    options = {"percentiles": [10], "calibration_batch": 1000, "calibration_sample": 4000, "checkpoint_seconds": 0}
    ep.build_from_activations(x, out=tmp_path / "whole", **options)
    countdown = iter([False] * 3)
    with pytest.raises(Interrupted):
        ep.build_from_activations(x, out=tmp_path / "cut", stop=lambda: next(countdown, True), **options)
    ep.build_from_activations(x, out=tmp_path / "cut", resume=True, **options)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


class TestRefusals:
    @pytest.mark.parametrize("n", [639, 641])
    def test_other_numbers_of_ids(self, n):
        with pytest.raises(EPError, match=r"token ids"):
            rows(given(X, Tokens(np.resize(IDS, n))))

    def test_shards_of_several_widths(self, tmp_path):
        np.save(tmp_path / "a.npy", X)
        np.save(tmp_path / "b.npy", X[:, :7])
        with pytest.raises(DataError, match="width 7"):
            rows(given(tmp_path))

    def test_a_shard_half_written(self, tmp_path):
        np.save(tmp_path / "a.npy", X)
        whole = (tmp_path / "a.npy").read_bytes()
        (tmp_path / "a.npy").write_bytes(whole[:-1000])
        with pytest.raises(DataError, match="half written"):
            rows(given(tmp_path / "a.npy"))

    def test_a_file_that_changes_while_it_is_read(self, tmp_path):
        np.save(tmp_path / "a.npy", X)
        source = given(tmp_path / "a.npy")
        with pytest.raises(DataError, match="changed while"):
            for _, _block in source.start():
                with (tmp_path / "a.npy").open("ab") as file:
                    file.write(b"more")

    def test_ids_or_pickles_in_place_of_activations(self, tmp_path):
        np.save(tmp_path / "ids.npy", IDS)
        np.save(tmp_path / "objects.npy", np.array([{}, None], object))
        for name, what in (("ids", "--tokens"), ("objects", "Python objects")):
            with pytest.raises(EPError, match=what):
                rows(given(tmp_path / f"{name}.npy"))

    def test_a_folder_that_grows_while_it_is_read(self, tmp_path):
        np.save(tmp_path / "a.npy", X)
        with pytest.raises(DataError, match="came while"):
            for _, _block in given(tmp_path).start():
                np.save(tmp_path / "b.npy", X)

    @pytest.mark.parametrize("wrong", [10**6, -100])
    def test_ids_that_are_none_of_the_tokenizers(self, wrong):
        ids = IDS.copy()
        ids[17] = wrong
        with pytest.raises(EPError, match=f"token id {wrong} is none of"):
            rows(given(X, Tokens(ids, make_tokenizer())))

    def test_an_unknown_file_and_text_readers_that_point_here(self, tmp_path):
        (tmp_path / "x.mat").write_bytes(b"")
        np.save(tmp_path / "x.npy", X)
        with pytest.raises(EPError, match="build_from_activations"):
            given(tmp_path / "x.mat")
        with pytest.raises(EPError, match="--activations"):
            ep.build("smollm2-135m-instruct", [tmp_path / "x.npy"], out=tmp_path / "o")

    def test_what_needs_the_model_says_so(self, tmp_path):
        ep.build_from_activations(X, out=tmp_path / "o", percentiles=[10], site="resid_post.1")
        for act in (lambda: ep.annotate(tmp_path / "o", ["text"]), lambda: ep.evaluate(ep.load(tmp_path / "o"))):
            with pytest.raises(EPError, match="--model"):
                act()
        ep.build_from_activations(X, out=tmp_path / "p", percentiles=[10])
        with pytest.raises(EPError, match="a place that is not known"):
            ep.read(ep.load(tmp_path / "p"), "text", "org/model")


class TestSaved:
    """What was made in memory, as folders."""

    def test_a_fitted_partition(self, tmp_path):
        fitted = ep.ExemplarPartition(10).fit(X)
        d = check(fitted.save(tmp_path))
        np.testing.assert_array_equal(d.exemplars.numpy(), fitted.exemplars_)
        np.testing.assert_array_equal(d.regions["arrival_index"].to_numpy(), fitted.exemplar_indices_)
        assert d.config.model.fingerprint is None and isinstance(d, ep.Dictionary)
        with pytest.raises(EPError, match="exists already"):
            fitted.save(tmp_path)
        with pytest.raises(EPError, match="fit first"):
            ep.ExemplarPartition().save(tmp_path / "o")

    def test_a_dictionary(self, tmp_path):
        fitted = ep.ExemplarPartition(10).fit(X)
        made = ep.Dictionary(fitted.center_, fitted.exemplars_, fitted.threshold_)
        d = check(made.save(tmp_path, percentile=10))
        np.testing.assert_array_equal(d.assign(X)[0], made.assign(X)[0])


def test_the_site_is_read_off_the_name_of_the_array(tmp_path):
    np.savez(tmp_path / "x.npz", **{"blocks.3.hook_resid_post": X})
    ep.build_from_activations(tmp_path / "x.npz", out=tmp_path / "o", percentiles=[10])
    assert ep.load(tmp_path / "o", site="blocks.3.hook_resid_post").config.site.name == "resid_post.3"


def test_regions_without_tokens_are_named_by_their_rows(tmp_path):
    ep.build_from_activations(X, out=tmp_path / "o", percentiles=[10], annotate=True)
    d = ep.load(tmp_path / "o")
    documents = d.regions["document"].to_pylist()
    assert [Labels.read(d).best(region).text for region in range(d.k)] == documents
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "o"), "--region", "0"], env={"COLUMNS": "100"})
    assert shown.exit_code == 0 and re.search(rf"nearest +0\.000 +{documents[0]} @0", shown.stdout)
