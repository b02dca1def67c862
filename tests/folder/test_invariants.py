"""Contents exchanged and every hash made right: what a dictionary's files say of each other tells it all the same."""

import json
import re
import shutil
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.building.extend import extend
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.files import seal, sealed, sha256, to_json
from exemplar_partitioning.folder import bookmarks
from exemplar_partitioning.folder.dictionary import load
from exemplar_partitioning.folder.invariants import check
from exemplar_partitioning.folder.labels import Labels


@pytest.fixture(scope="module")
def whole(tiny_folder, text_file, tmp_path_factory):
    return built(tiny_folder, text_file, tmp_path_factory.mktemp("whole") / "out")


def built(tiny_folder, text_file, out):
    """An annotated build of two percentiles of a tiny model."""
    options: dict[str, Any] = {
        "calibration_batch": 500,
        "calibration_sample": 1000,
        "context_size": 32,
        "max_tokens": 6000,
    }
    ep.build(str(tiny_folder), [text_file], out=out, sites="resid_post.1", percentiles=[10, 20], **options)
    ep.annotate(out, [text_file], model=str(tiny_folder))
    return out


def json_of(name, change):
    def tamper(folder):
        value = json.loads((folder / name).read_bytes())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return tamper


def put(*keys, value):
    def change(record):
        *path, last = keys
        for key in path:
            record = record[key]
        record[last] = value

    return change


def config(*keys, value):
    return json_of("config.json", put(*keys, value=value))


def evidence(*keys, value):
    return json_of("annotation/annotation.json", put(*keys, value=value))


def tensors(change, name="exemplars.safetensors"):
    def tamper(folder):
        given = {key: value.copy() for key, value in load_file(folder / name).items()}
        save_file({key: np.ascontiguousarray(value) for key, value in change(given).items()}, folder / name)

    return tamper


def means(change):
    return tensors(change, "annotation/means.safetensors")


def table(change, name="regions.parquet"):
    def tamper(folder):
        pq.write_table(change(pq.read_table(folder / name)), folder / name, row_group_size=1024)

    return tamper


def column(column_name, values, name="regions.parquet"):
    """values: of the column as a list, a function of the list, or one value for all."""

    def change(given):
        old = given[column_name].to_pylist()
        new = values(old) if callable(values) else [values] * len(old)
        return replaced(given, column_name, new)

    return table(change, name)


def said_often(path, name):
    """One long text, listed once, in every row: some kilobytes on the disk."""
    given = pq.read_table(path)
    field = given.schema.field(name).with_type(pa.dictionary(pa.int32(), pa.string()))
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * len(given), pa.int32()), pa.array(["x" * 20_000_000]))
    often = given.set_column(given.schema.get_field_index(name), field, texts)
    pq.write_table(often, path, store_schema=False, dictionary_pagesize_limit=1 << 30, compression="zstd")


def replaced(given, name, new):
    field = given.schema.field(name)
    return given.set_column(given.schema.get_field_index(name), field, pa.array(new, field.type))


def reverse(given):
    return given.take(pa.array(np.arange(len(given))[::-1]))


def first(value):
    return lambda old: [value, *old[1:]]


def tokens_with(name, value):
    return lambda old: [[{**token, name: value} for token in row] for row in old]


def exchanged(name):
    def change(given):
        values = given[name].copy()
        values[[0, 1]] = values[[1, 0]]
        return {**given, name: values}

    return change


def scaled(name, factor, rows=slice(None)):
    def change(given):
        values = given[name].copy()
        values[rows] = values[rows] * factor
        return {**given, name: values}

    return change


def two_rows(name):
    """What two regions of unlike tokens and nearly as many members have of a column, exchanged."""

    def change(given):
        members, lists = given["members"].to_pylist(), given[name].to_pylist()
        order = sorted(range(len(members)), key=lambda i: -members[i])
        a, b = next((a, b) for a, b in pairwise(order) if lists[a][0]["token"] != lists[b][0]["token"])
        lists[a], lists[b] = lists[b], lists[a]
        return replaced(given, name, lists)

    return table(change, "annotation/regions.parquet")


def later(given):
    """The first exemplar of a window that has two, with room after it, comes one later than it did."""
    births, seen = given["arrival_index"].to_pylist(), {}
    windows = zip(*(given[name].to_pylist() for name in ("document", "position", "window_tokens")), strict=True)
    for row, (document, position, window) in enumerate(windows):
        before = seen.setdefault((document, position - len(window)), row)
        if before < row and births[row] - births[before] > 1 and births[before + 1] > births[before] + 1:
            births[before] += 1
            break
    return replaced(given, "arrival_index", births)


def covers(change):
    def tamper(folder):
        record = json.loads((folder / "sole_covers.json").read_bytes())
        del record["sha256"]
        (folder / "sole_covers.json").write_bytes(sealed({**record, "counts": change(record["counts"])}))

    return tamper


ROWS, EXAMPLES = "annotation/regions.parquet", "annotation/examples.parquet"
TAMPERINGS = {
    "theta of another": config("calibration", "threshold", value=1.9),
    "theta zero": config("calibration", "threshold", value=0.0),
    "theta negative": config("calibration", "threshold", value=-0.5),
    "theta beyond any distance": config("calibration", "threshold", value=3.0),
    "theta infinite": config("calibration", "threshold", value=float("inf")),
    "percentile of another folder": config("calibration", "percentile", value=50.0),
    "percentile negative": config("calibration", "percentile", value=-5.0),
    "percentile 100": config("calibration", "percentile", value=100.0),
    "length of the centre": config("calibration", "center_norm", value=1e3),
    "no calibration batch": config("calibration", "batch", value=0),
    "spread negative": config("calibration", "spread", value=-1.0),
    "another site": config("site", "name", value="resid_post.0"),
    "a site that is a path": config("site", "name", value="../../x"),
    "width": config("model", "d_model", value=25),
    "k": json_of("config.json", lambda c: c["build"].update(k=c["build"]["k"] + 1)),
    "no activations": config("build", "n_activations", value=0),
    "activations negative": config("build", "n_activations", value=-5),
    "more skipped than streamed": config("build", "skipped", value=10**9),
    "fewer streamed than arrived": config("build", "skipped", value=1),
    "no growth": config("build", "growth", value=[]),
    "growth that falls": json_of("config.json", lambda c: c["build"]["growth"].insert(0, [3, 10**6])),
    "growth negative": json_of("config.json", lambda c: c["build"]["growth"].insert(0, [-5, -9])),
    "growth that ends elsewhere": json_of("config.json", lambda c: c["build"]["growth"].append([10**7, 10**6])),
    "missing mass above 1": config("build", "unseen", value={"estimate": 7.0, "low": 0.0, "high": 9.0}),
    "missing mass outside its interval": config("build", "unseen", value={"estimate": 0.1, "low": 0.5, "high": 0.9}),
    "context of no token": config("text", "context_size", value=0),
    "context negative": config("text", "context_size", value=-1),
    "a buffer negative": config("text", "shuffle_buffer", value=-1),
    "a file elsewhere": config("files", "../../secret", value={"sha256": "0" * 64, "bytes": 3}),
    "centre moved": tensors(lambda t: {**t, "center": t["center"] + 1}),
    "centre NaN": tensors(lambda t: {**t, "center": t["center"] * np.float32("nan")}),
    "exemplars infinite": tensors(scaled("exemplars", np.float32("inf"), slice(0, 1))),
    "exemplars longer": tensors(scaled("exemplars", 1.5)),
    "an exemplar longer": tensors(scaled("exemplars", 1.01, slice(0, 1))),
    "an exemplar zero": tensors(scaled("exemplars", 0, slice(0, 1))),
    "an exemplar negated": tensors(scaled("exemplars", -1, slice(0, 1))),
    "two exemplars exchanged": tensors(exchanged("exemplars")),
    "exemplars the other way round": tensors(lambda t: {**t, "exemplars": t["exemplars"][::-1]}),
    "an exemplar twice": tensors(lambda t: {**t, "exemplars": t["exemplars"][[0, 0, *range(2, len(t["exemplars"]))]]}),
    "exemplars of half precision": tensors(lambda t: {**t, "exemplars": t["exemplars"].astype(np.float16)}),
    "an exemplar too few": tensors(lambda t: {**t, "exemplars": t["exemplars"][:-1]}),
    "no centre": tensors(lambda t: {"exemplars": t["exemplars"]}),
    "rows the other way round": table(reverse),
    "a row too few": table(lambda t: t.slice(0, len(t) - 1)),
    "no rows": table(lambda t: t.slice(0, 0)),
    "contexts that unpack to gigabytes": lambda folder: said_often(folder / "regions.parquet", "context"),
    "documents that unpack to gigabytes": lambda folder: said_often(folder / EXAMPLES, "document"),
    "rows twice": table(lambda t: pa.concat_tables([t, t])),
    "regions all 0": column("region", 0),
    "content ids": column("content_id", "0" * 16),
    "two content ids exchanged": column("content_id", lambda old: [old[1], old[0], *old[2:]]),
    "arrivals negative": column("arrivals", first(-5)),
    "arrivals of another": column("arrivals", lambda old: [n + 1 for n in old]),
    "arrivals without end": column("arrivals", 2**40),
    "length zero": column("raw_norm", first(0.0)),
    "length infinite": column("raw_norm", first(float("inf"))),
    "token id negative": column("token_id", first(-7)),
    "token id of another": column("token_id", lambda old: [old[0] + 1, *old[1:]]),
    "position negative": column("position", first(-3)),
    "exemplars that come in another order": column("arrival_index", lambda old: old[::-1]),
    "an exemplar after the end": column("arrival_index", lambda old: [*old[:-1], 10**12]),
    "a window of another token": column("window_tokens", lambda old: [[*old[0], 5, 6], *old[1:]]),
    "a window beyond the vocabulary": column("window_tokens", lambda old: [[10**6, *old[0]], *old[1:]]),
    "evidence the other way round": table(reverse, ROWS),
    "evidence for region 0 alone": column("region", 0, ROWS),
    "evidence of one region too few": table(lambda t: t.slice(0, len(t) - 1), ROWS),
    "members negative": column("members", first(-1), ROWS),
    "members of another": column("members", lambda old: [n + 1 for n in old], ROWS),
    "more within theta than members": column("within", 10**9, ROWS),
    "more in half than members": column("half", 10**9, ROWS),
    "coherence NaN": column("coherence", float("nan"), ROWS),
    "coherence infinite": column("coherence", float("inf"), ROWS),
    "coherence above 1": column("coherence", 1.5, ROWS),
    "mean distance negative": column("mean_distance", first(-0.5), ROWS),
    "mean distance of another": column("mean_distance", lambda old: old[::-1], ROWS),
    "stability below -1": column("stability", -2.0, ROWS),
    "examples negative": column("examples", lambda old: [-3, old[1] + old[0] + 3, *old[2:]], ROWS),
    "examples of another": column("examples", lambda old: [old[0] - 1, old[1] + 1, *old[2:]], ROWS),
    "a lift NaN": column("top_tokens", tokens_with("lift", float("nan")), ROWS),
    "means too few": means(lambda t: {**t, "mean_directions": t["mean_directions"][:-1]}),
    "means wider": means(lambda t: {**t, "mean_directions": np.pad(t["mean_directions"], ((0, 0), (0, 1)))}),
    "means NaN": means(scaled("mean_directions", np.float32("nan"))),
    "means longer": means(scaled("mean_directions", 9)),
    "means whole numbers": means(lambda t: {**t, "mean_directions": t["mean_directions"].astype(np.int32)}),
    "means the other way round": means(lambda t: {**t, "mean_directions": t["mean_directions"][::-1]}),
    "two means exchanged": means(exchanged("mean_directions")),
    "histogram of fewer bins": means(lambda t: {**t, "histogram": t["histogram"][:, :3]}),
    "histogram of floats": means(lambda t: {**t, "histogram": t["histogram"].astype(np.float32)}),
    "histogram of other members": means(scaled("histogram", 2)),
    "histogram the other way round": means(lambda t: {**t, "histogram": t["histogram"][:, ::-1]}),
    "examples the other way round": table(reverse, EXAMPLES),
    "examples of another region": column("region", lambda old: old[::-1], EXAMPLES),
    "examples of an unknown kind": column("kind", "best", EXAMPLES),
    "examples of one rank": column("rank", 0, EXAMPLES),
    "an example beyond its tokens": column("at", 999, EXAMPLES),
    "an example before its tokens": column("at", -1, EXAMPLES),
    "an example at another token": column("at", lambda old: [max(0, n - 1) if n else 1 for n in old], EXAMPLES),
    "examples without distances": column("distances", [], EXAMPLES),
    "examples without tokens": column("tokens", [], EXAMPLES),
    "an example's distance NaN": column("distance", first(float("nan")), EXAMPLES),
    "an example's distance negative": column("distance", first(-1.0), EXAMPLES),
    "distances infinite": column("distances", lambda old: [[float("inf")] * len(v) for v in old], EXAMPLES),
    "coverage above 1": evidence("coverage", value=9.0),
    "coverage of another": evidence("coverage", value=0.123),
    "annotated activations negative": evidence("n_activations", value=-1),
    "annotated activations of another": evidence("n_activations", value=7),
    "empty regions of another": evidence("empty", value=10**6),
    "a block beyond the model": config("model", "n_layers", value=1),
    "growth of another stream": json_of("config.json", lambda c: c["build"]["growth"].insert(0, [1, 0])),
    "growth that waits": json_of("config.json", lambda c: c["build"]["growth"].insert(0, [3000, 1])),
    "an unknown key": config("more", value=1),
    "no key": json_of("config.json", lambda c: c["calibration"].pop("threshold")),
    "k as text": config("build", "k", value="many"),
    "stopped by nothing": config("build", "stopped", value="tired"),
    "an exemplar nothing arrived at": column("arrivals", lambda old: [0, old[0] + old[1], *old[2:]]),
    "a window of another beginning": column("window_tokens", lambda old: [[w[0] + 1, *w[1:]] for w in old]),
    "a window longer than the context": column("window_tokens", lambda old: [[0, *[5] * 40, *old[0]], *old[1:]]),
    "a length shorter than any": column("raw_norm", first(1e-6)),
    "lengths of other rows": column("raw_norm", lambda old: [n / 1000 for n in old]),
    "columns in another order": table(lambda t: t.select(t.column_names[::-1])),
    "a column too few": table(lambda t: t.drop_columns(["context"])),
    "a column too many": table(lambda t: t.append_column("more", pa.array(range(len(t))))),
    "a column of another type": table(lambda t: t.set_column(9, "arrivals", t["arrivals"].cast(pa.float64()))),
    "evidence of a column too few": table(lambda t: t.drop_columns(["within"]), ROWS),
    "evidence of rows twice": table(lambda t: pa.concat_tables([t, t]), ROWS),
    "a token counted more than the members": column("top_tokens", tokens_with("count", 10**9), ROWS),
    "a token counted never": column("before_tokens", tokens_with("count", 0), ROWS),
    "a top token beyond the vocabulary": column("top_tokens", tokens_with("token_id", 10**6), ROWS),
    "a token of the lens beyond the vocabulary": column("lens_top", tokens_with("token_id", -4), ROWS),
    "a probability above 1": column("lens_top", tokens_with("probability", 2.0), ROWS),
    "a probability negative": column("mean_lens_bottom", tokens_with("probability", -0.1), ROWS),
    "a lift negative": column("lens_bottom", tokens_with("lift", -1.0), ROWS),
    "std distance negative": column("std_distance", first(-0.1), ROWS),
    "examples too few": table(lambda t: t.slice(0, len(t) - 1), EXAMPLES),
    "examples twice": table(lambda t: pa.concat_tables([t, t]), EXAMPLES),
    "examples without a column": table(lambda t: t.drop_columns(["document"]), EXAMPLES),
    "examples without token ids": column("token_ids", [], EXAMPLES),
    "an example too far": column("distance", first(2.5), EXAMPLES),
    "histogram negative": means(scaled("histogram", -1)),
    "no histogram": means(lambda t: {"mean_directions": t["mean_directions"]}),
    "a mean zero": means(scaled("mean_directions", 0, slice(0, 1))),
    "a mean negated": means(scaled("mean_directions", -1, slice(0, 1))),
    "annotated tokens too few": evidence("n_tokens", value=3),
    "documents without end": evidence("n_documents", value=10**9),
    "effective regions of another": evidence("effective", value=1.5),
    "annotated as a later schema": evidence("schema_version", value="9.0"),
    "a metric infinite": evidence("quality", "dictionary", "cohesion", value=float("inf")),
    "a metric out of its range": evidence("quality", "gaussian", "coverage", value=3.0),
    "a silhouette of 7": evidence("quality", "random_exemplars", "silhouette", value=7.0),
    "a later schema": config("schema_version", value="9.0"),
    "another format": config("format", value="exemplar-partitioning/annotation"),
    "arrivals one later": column("arrival_index", lambda old: [n + 1 for n in old]),
    "an exemplar one later than in its window": table(later),
    "the missing mass of another": json_of(
        "config.json", lambda c: c["build"]["unseen"].update(low=0.0, estimate=c["build"]["unseen"]["low"] / 2)
    ),
    "saturated in the middle": json_of("config.json", lambda c: c["build"].update(stopped="saturated")),
    "sole covers of another": covers(lambda counts: "0" * len(counts)),
    "more covers than arrivals": covers(lambda counts: "2" * len(counts)),
    "top tokens of two regions exchanged": two_rows("top_tokens"),
    "top tokens in another order": column("top_tokens", lambda old: [row[::-1] for row in old], ROWS),
    "a token called as another": column(
        "top_tokens", lambda old: [[{**r[0], "token": "x"}, *r[1:]] for r in old], ROWS
    ),
    "an exemplar's token called as another": column("token", first("x")),
    "an example's tokens called as others": column("tokens", lambda old: [["x"] * len(v) for v in old], EXAMPLES),
    "counts of half": column(
        "top_tokens", lambda old: [[{**t, "count": max(1, t["count"] // 2)} for t in r] for r in old], ROWS
    ),
    "within theta of another": column("within", lambda old: old[::-1], ROWS),
    "spread of another": column("std_distance", lambda old: [n and n * 2 for n in old], ROWS),
    "gini infinite": evidence("gini", value=float("inf")),
}  # fmt: skip


def resealed(name, **changes):
    """A record beside a dictionary with other values, sealed again."""

    def tamper(folder):
        record = json.loads((folder / name).read_bytes())
        record.pop("sha256")
        (folder / name).write_bytes(sealed({**record, **changes}))

    return tamper


BESIDE = {
    "a label twice": resealed("labels.json", labels=[{"region": 1, "text": "a", "source": "hand"}] * 2),
    "a label of two lines": resealed("labels.json", labels=[{"region": 1, "text": "a\nb", "source": "hand"}]),
    "a label from tokens": resealed("labels.json", labels=[{"region": 1, "text": "a", "source": "tokens"}]),
    "a label beyond the regions": resealed("labels.json", labels=[{"region": 10**6, "text": "a", "source": "hand"}]),
    "a list without a name": resealed("bookmarks.json", lists={"": [1]}),
    "a list of two lines": resealed("bookmarks.json", lists={"a\nb": [1]}),
    "a list with a region twice": resealed("bookmarks.json", lists={"a": [1, 1]}),
    "a list of nothing": resealed("bookmarks.json", lists={"a": []}),
    "a list of a long name": resealed("bookmarks.json", lists={"a" * 10**6: [1]}),
    "an operation that is none": resealed("origin.json", operation="trust me"),
    "an origin of a later schema": resealed("origin.json", schema_version="9.0"),
    "no sources": resealed("origin.json", sources=[]),
    "one source of two": resealed("origin.json", operation="transport"),
    "sources that are none": resealed("origin.json", sources=[{}, {}]),
    "more regions than the sources had": resealed("origin.json", regions_of_a=10**6),
    "fewer regions than there are": resealed("origin.json", regions_of_a=0, regions_of_b=1),
}


@pytest.fixture(scope="module")
def joined(whole, tmp_path_factory):
    """A dictionary with an origin, a label by hand, and a list of regions."""
    fine, coarse = ep.load(whole, percentile=10), ep.load(whole, percentile=20)
    made = ep.combine("merge", coarse, fine, tmp_path_factory.mktemp("joined") / "d")
    Labels(made).set(1, "a")
    bookmarks.put(made, "a", 1)
    check(made.path)
    return made.path


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_a_dictionary_is_told_too(joined, tmp_path, what):
    shutil.copytree(joined, tmp_path / "d")
    BESIDE[what](tmp_path / "d")
    with pytest.raises(DataError, match=r"damaged|labels region|lists a region"):
        check(tmp_path / "d")


def hashed_again(folder):
    """Make every hash and size right."""
    for home, name in ((folder, "config.json"), (folder / "annotation", "annotation.json")):
        record = json.loads((home / name).read_bytes())
        for file in record["files"]:
            if (home / file).is_file():
                record["files"][file] = {"sha256": sha256(home / file), "bytes": (home / file).stat().st_size}
        if name == "annotation.json":
            record["dictionary"] = sha256(folder / "config.json")
        try:
            (home / name).write_bytes(to_json(record))
        except ValueError:  # infinite: no writer of ours, but readers take it
            (home / name).write_text(json.dumps(record))
        seal(home / name)


def told(pristine, home, what):
    """What is said of a dictionary that was tampered with; nothing if it passes."""
    folder = home / "resid_post.1" / pristine.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder)
    TAMPERINGS[what](folder)
    hashed_again(folder)
    try:
        check(folder)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("what", TAMPERINGS)
def test_contents_that_were_exchanged_are_told(whole, tmp_path, what):
    assert re.search(r"damaged|must|cannot|has|says|not describe", told(whole / "resid_post.1" / "p10", tmp_path, what))


READERS = (("show",), ("show", "--json"), ("show", "--region", "0"), ("search", "king"), ("tree",), ("report",))


def unclear(folder):
    """What commands that read a dictionary, and do not check all of it, end in but an answer or a refusal."""
    for name, *more in READERS:
        line = [name, str(folder), *more, *(("--out", str(folder.parent / "report.html")) if name == "report" else ())]
        (folder.parent / "report.html").unlink(missing_ok=True)
        error = CliRunner().invoke(app, line).exception
        if error and not isinstance(error, EPError | SystemExit):
            yield f"{' '.join(line)}: {type(error).__name__}: {error}"


@pytest.mark.parametrize(
    "what", ["no rows", "an exemplar too few", "an example beyond its tokens", "examples of another region"]
)
def test_what_is_read_unchecked_is_refused_without_a_trace(whole, tmp_path, what):
    assert told(whole / "resid_post.1" / "p10", tmp_path, what)
    assert [*unclear(tmp_path / "resid_post.1" / "p10")] == []


def test_hashing_again_is_no_damage(whole, tmp_path):
    folder = tmp_path / "resid_post.1" / "p10"
    shutil.copytree(whole / "resid_post.1" / "p10", folder)
    hashed_again(folder)
    check(folder)


def test_dictionaries_that_no_build_made_pass(whole, tiny_folder, text_file, tmp_path):
    coarse, fine = ep.load(whole, percentile=20), ep.load(whole, percentile=10)
    extend(whole, [text_file], out=tmp_path / "extended", model=str(tiny_folder), max_tokens=8000)
    made = [
        *(load(tmp_path / "extended", percentile=p) for p in (10, 20)),
        ep.combine("merge", coarse, fine, tmp_path / "merged"),
        ep.transport(fine, str(tiny_folder), tmp_path / "carried", site="resid_post.0"),
    ]
    for operation in ("union", "intersection"):
        made.append(ep.combine(operation, fine, load(tmp_path / "extended", percentile=10), tmp_path / operation))
    for dictionary in made:
        check(dictionary.path)


def test_the_command_embeds_exemplars_again_and_names_what_is_damaged(whole, tiny_folder, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    arguments = ["check", str(folder), "--model", str(tiny_folder)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and done.output.count("embedded again") == 2
    # a window that ends with the same token, but begins otherwise: only the model can tell
    column("window_tokens", lambda old: [[w[0], *w[1:-1][::-1], w[-1]] for w in old])(folder / "resid_post.1" / "p20")
    hashed_again(folder / "resid_post.1" / "p20")
    check(folder / "resid_post.1" / "p20")
    with pytest.raises(DataError, match="1 of 2 dictionaries"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_exemplars_are_what_their_windows_give_to_rounding(whole, tiny_folder):
    from exemplar_partitioning.compare.transport import embedded_again

    far, count = embedded_again(ep.load(whole, percentile=20), str(tiny_folder), count=10**6)
    assert count == ep.load(whole, percentile=20).k and 0 <= far < 1e-4
