"""What is damaged, and how it is read: files of ours, which hold hashes, and files of others, which may not.

A subject makes its files in a folder and reads them to a digest of everything a reader can learn from them. Damaged
files of ours must give an EPError or the same digest. Most foreign formats have no checksum, so what they say after
the damage may be something else; but no more than that: an EPError, or a result that is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import exemplar_partitioning as ep
from annotated import annotated
from exemplar_partitioning.act.concept import Concept
from exemplar_partitioning.act.steer import direction_of
from exemplar_partitioning.building import workspace as checkpoint
from exemplar_partitioning.building.growing import Growing, Provenance
from exemplar_partitioning.building.settings import BuildSettings
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.export import export
from exemplar_partitioning.exchange.from_paper import import_published
from exemplar_partitioning.exchange.from_sae import load_sae
from exemplar_partitioning.folder import checkpoints
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.activations import Kept, Spill
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.folder.listing import OnDisk
from exemplar_partitioning.folder.origin import origin, read_origin
from exemplar_partitioning.folder.sole_covers import read_sole_covers, sole_covers
from exemplar_partitioning.folder.text_search import search
from exemplar_partitioning.novelty.conformal import Tail
from exemplar_partitioning.novelty.detector import Detector, FittedOn, Scale, _evidence, _Record
from exemplar_partitioning.novelty.scores import SHARPNESS
from exemplar_partitioning.show.map import layout
from exemplar_partitioning.text.documents import read_documents
from made_up import model_record

from .mutations import mutated
from .pool import OTHER, REFUSED, SAME, WRONG, Work

SITE = "resid_post.1"


@dataclass(frozen=True)
class Subject:
    """Files of one kind.

    make: writes files into a folder.  read: what they say, as a digest.  damage: patterns of the files to damage.
    ours: the files hold hashes, so that other contents must be refused.  cost: of reading, in plain cases.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], str]
    damage: str
    ours: bool = True
    cost: float = 1.0


def digest(*parts: Any) -> str:
    """Short sha256 over plain values, arrays, tensors and tables."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.numpy(force=True)
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            total.update(repr(part).encode(errors="surrogatepass"))
    return total.hexdigest()[:16]


def files(folder: Path, pattern: str) -> list[Path]:
    """Those to damage, in order."""
    return [path for path in sorted(folder.glob(pattern)) if path.is_file() and path.stat().st_size]


def damage(subject: Subject, seed: int, pristine: Path, scratch: Path) -> Work:
    """The work of a subject: case to what reading its files came to, after a damage that follows from seed and case."""
    expected = subject.read(_fresh(pristine, scratch))

    def work(case: int) -> tuple[str, str]:
        folder = _fresh(pristine, scratch)
        rng = Random(f"{subject.name} {seed} {case}")
        path = rng.choice(files(folder, subject.damage))
        kind, data = mutated(path.read_bytes(), rng)
        path.write_bytes(data)
        done = f"{path.name}, {kind}"
        try:
            found = subject.read(folder)
        except EPError as error:
            return (REFUSED, done) if len(str(error)) > 20 else (WRONG, f"{done}: says only {error}")
        if found == expected:
            return SAME, done
        return (WRONG if subject.ours else OTHER), f"{done}: another result"

    return work


def prepare(name: str, seed: int, pristine: str, scratch: str) -> Work:
    """As `damage`, by the subject's name; what the pool calls."""
    torch.set_num_threads(1)
    return damage(SUBJECTS[name], seed, Path(pristine), Path(scratch))


def _fresh(pristine: Path, scratch: Path) -> Path:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(pristine, scratch)
    return scratch


def _dictionary(folder: Path) -> None:
    (d,) = annotated(folder, k=12, percentiles=(2,))
    labels = Labels(d)
    labels.set(3, "weekdays")
    labels.set(7, "names of rivers \U0001f30a")
    given = [np.random.default_rng(i).normal(size=20) for i in range(40)]
    scale = Scale.of(given)
    record = _Record(
        dictionary=d.content_id,
        evidence=_evidence(d),
        score="surprise",
        sharpness=SHARPNESS,
        false_alarms=0.05,
        token_false_alarms=0.05,
        fitted_on=FittedOn(source="a.jsonl", documents=50, tokens=1000, seed=0),
        scale=scale,
        documents=Tail.of([np.array([scale.standard(s)]) for s in given]),
        tokens=Tail.of(given),
    )
    Detector(d, record).write()
    for name, content in origin("merge", [d, d], within=0.25).items():
        (d.path / name).write_bytes(content)


def _read_dictionary(folder: Path) -> str:
    d = store.load(folder)
    a = d.annotation
    return digest(
        d.config.model_dump(),
        d.content_id,
        d.center,
        d.exemplars,
        d.threshold,
        d.regions.to_pylist(),
        a.record.model_dump(),
        a.regions.to_pylist(),
        a._examples[0].read().to_pylist(),
        a.mean_directions,
        a.histogram,
        Labels.read(d).every(),
        Detector.read(d).record.model_dump(),
        read_origin(d),
    )


def _bare(folder: Path) -> None:
    """A dictionary alone: no other file names its content."""
    annotated(folder, k=20, percentiles=(2,), annotate=False)


def _read_bare(folder: Path) -> str:
    d = store.load(folder)
    return digest(d.config.model_dump(), d.content_id, d.center, d.exemplars, d.threshold, d.regions.to_pylist())


def _one_file(name: str) -> Subject:
    return Subject(name, _dictionary, _read_dictionary, f"{SITE}/p2/{name}")


def _settings() -> BuildSettings:
    model = model_record("tiny", d_model=8, vocab_size=50, n_layers=2)
    return BuildSettings(
        model=model,
        text="a.jsonl",
        sites=(SITE,),
        percentiles=(2.0,),
        max_tokens=1000,
        saturation_window=500,
        until_unseen=None,
        calibration_batch=100,
        calibration_sample=200,
        context_size=32,
        prepend_bos=True,
        chat=False,
        positions="all",
        shuffle_buffer=10,
        seed=0,
        batch_size=4,
        strict=False,
        device="cpu",
        threads=1,
    )


def _work_folder(folder: Path) -> None:
    """An unfinished build: a spill of two chunks, and a checkpoint of a clustering."""
    rng = np.random.default_rng(0)
    workspace = checkpoint.Workspace(folder / "out", _settings(), resume=False)
    spill = checkpoint.Spill(workspace.work / "spill", {SITE: 8})
    spill.open()
    x_nd = torch.from_numpy(rng.normal(size=(60, 8)).astype(np.float32))
    for part in x_nd.split(30):
        spill.append({SITE: part})
    clustering = LeaderClustering(x_nd.mean(0), 0.6)
    clustering.add(x_nd)
    growing = Growing(site=SITE, percentile=2.0, clustering=clustering, settings=_settings(), sample=60, spread=0.01)
    for birth in clustering.births:
        window = rng.integers(0, 50, size=5).astype(np.int32)
        growing.provenance.append(Provenance("a.jsonl:1", int(birth), window, 1.5))
    workspace.save(checkpoint.State(spill, [growing], 1, "d" * 64))
    workspace._lock.release()


def _read_work_folder(folder: Path) -> str:
    workspace = checkpoint.Workspace(folder / "out", _settings(), resume=True)
    try:
        state = workspace.load("cpu", {SITE: 8})
        state.spill.open()
        (one,) = state.growing
        provenance = [(p.document, p.position, p.window_tokens.tolist(), p.raw_norm) for p in one.provenance]
        activations = [dict(state.spill.by_site(i))[SITE] for i in range(len(state.spill.rows))]
        rest = (state.clustered, state.digest, one.sample, one.spread, one.site, one.percentile, one.growth)
        counts = (one.clustering.position, one.clustering.skipped, one.clustering.threshold, one.stopped, one.digest)
        return digest(provenance, rest, counts, *activations, *one.arrays().values(), one.clustering.center)
    finally:
        workspace._lock.release()


def _annotate_checkpoint(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"0.sums": rng.integers(0, 2**40, size=(20, 8)), "documents": rng.integers(0, 99, 30).astype(np.uint64)}
    checkpoints.Checkpoints(folder).save(arrays, {"done": 3, "tokens": 400, "digest": "d" * 64, "names": [[1, "a"]]})


def _read_annotate_checkpoint(folder: Path) -> str:
    found = checkpoints.Checkpoints(folder).load()
    assert found is not None
    return digest(sorted(found[0]), *(found[0][name] for name in sorted(found[0])), found[1])


def _exported(to: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (d,) = annotated(folder / "from", k=30, percentiles=(2,))
        export(d, to, folder / "sae")
        shutil.rmtree(folder / "from")

    return make


def _gemma_scope(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from safetensors.numpy import save_file

        rng = np.random.default_rng(0)
        shapes = {"w_enc": (6, 20), "b_enc": (20,), "w_dec": (20, 6), "b_dec": (6,), "threshold": (20,)}
        tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        (folder / "sae").mkdir()
        if suffix == "npz":
            np.savez_compressed(folder / "sae" / "params.npz", **tensors)
        else:
            save_file(tensors, folder / "sae" / "params.safetensors")
            (folder / "sae" / "config.json").write_text('{"architecture": "jump_relu", "model_name": "m"}')

    return make


def _read_sae(folder: Path) -> str:
    sae = load_sae(folder / "sae")
    features = sae.encode(torch.linspace(-1, 1, 3 * sae.W_enc.shape[0]).reshape(3, -1))
    sae.decode(features)
    tensors = (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    return digest(*tensors, sae.kind, sae.threshold, sae.k, sae.centred, sae.model, sae.site)


def _pickled(folder: Path) -> None:
    from .foreign import published

    (folder / "layer1.pkl").write_bytes(published(k=12, d=8))
    described = {"config": {"model": "org/tiny", "layer": 1, "percentile": 2.5, "ctx": 32, "seed": 3}}
    (folder / "metadata.json").write_text(json.dumps(described))


def _read_pickled(folder: Path) -> str:
    """What comes of it must be a folder that loads."""
    made = import_published(folder / "layer1.pkl", folder / "out")
    d = store.load(made)
    config = d.config.model_dump(exclude={"files", "versions"})
    return digest(config, d.center, d.exemplars, d.regions.to_pylist())


def _texts(folder: Path) -> None:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [f"the old grey dog number {i} sees \u00e9 stone" for i in range(30)]
    lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
    (folder / "a.jsonl").write_text(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (folder / "c.csv").write_text("n,text\n" + "".join(f'{i},"{row}"\n' for i, row in enumerate(rows)))
    (folder / "d.json").write_text(json.dumps(rows))
    (folder / "e.txt").write_text("\n".join(rows))
    pq.write_table(pa.table({"text": rows}), folder / "f.parquet", row_group_size=10)
    with pa.CompressedOutputStream(str(folder / "g.jsonl.zst"), "zstd") as file:
        file.write(lines.encode())


def _read_texts(folder: Path) -> str:
    return digest([(document.id, document.text) for document in read_documents([folder])])


def _model_folder(folder: Path) -> None:
    from conftest import tiny_llama

    tiny_llama(folder / "tiny")


def _read_model(folder: Path) -> str:
    loaded = ep.load_model(str(folder / "tiny"))
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[0, 5, 6, 7]])).logits
    return digest(loaded.info, logits, loaded.tokenizer("the old dog")["input_ids"])


def _gguf(folder: Path) -> None:
    from .foreign import tiny_gguf

    tiny_gguf(folder / "tiny.gguf")


def _read_gguf(folder: Path) -> str:
    loaded = ep.load_model(str(folder / "tiny.gguf"))
    return digest(loaded.info, loaded.tokenizer("the old dog")["input_ids"])


def _concept(folder: Path) -> None:
    _bare(folder)
    d = store.load(folder)
    ratio = {"auc": 0.9, "misses": (0.1, 0.0, 0.2), "alarms": (0.1, 0.0, 0.2)}
    made = Concept("kings", d.content_id, [3, 7], 0.6, 0.25, direction_of(d, [3, 7]), {"detection": ratio})
    made.save(folder / "concept")


def _read_concept(folder: Path) -> str:
    d = store.load(folder)
    read = Concept.load(folder / "concept", d)
    kept = (read.name, read.regions, read.threshold, read.alpha, read.report)
    return digest(kept, read.direction, read.scores(d, torch.linspace(-1, 1, 3 * d.d_model).reshape(3, -1)))


def _index(folder: Path) -> None:
    annotated(folder / "build", k=12, percentiles=(2,))
    _read_index(folder)


def _read_index(folder: Path) -> str:
    os.environ["EP_CACHE"] = str(folder / "cache")
    hits = [search(OnDisk(store.load(folder / "build").path), word, 5) for word in ("dog", "king", "the old")]
    return digest(hits)


def _kept(folder: Path) -> None:
    rng = np.random.default_rng(0)
    spill = Spill(folder / "work", {SITE: 8})
    spill.open()
    for part in range(2):
        x_nd = torch.from_numpy(rng.normal(size=(30, 8)).astype(np.float32))
        spill.append({SITE: x_nd}, digest=f"{part}" * 64, tokens_read=40 * (part + 1))
    spill.keep(folder / "activations", {"model": "f" * 64, "lasting": True})


def _read_kept(folder: Path) -> str:
    """What an annotation takes from it: nothing, where it is not these very activations."""
    kept = Kept.beside(folder)
    assert kept is not None
    if not kept.serves("f" * 64, [SITE]):
        return digest(None)
    chunks = [kept.read(f"{part}" * 64, 30, [SITE]) for part in range(2)]
    return digest(kept.lasting, kept.spill.tokens, *(chunk and chunk[SITE] for chunk in chunks))


def _covers(folder: Path) -> None:
    (folder / "sole_covers.json").write_bytes(sole_covers(["a", "b", "c"], np.array([0, 1, 2]))["sole_covers.json"])


def _read_covers(folder: Path) -> str:
    return digest(read_sole_covers(folder, ["a", "b", "c"]))


def _atlas(folder: Path) -> None:
    annotated(folder / "build", k=6, percentiles=(2,), annotate=False)
    _read_atlas(folder)


def _read_atlas(folder: Path) -> str:
    os.environ["EP_CACHE"] = str(folder / "cache")
    return digest(layout(store.load(folder / "build")))


_BARE = ("config.json", "exemplars.safetensors", "regions.parquet")
_BESIDE = ("labels.json", "ood.json", "origin.json")
_EVIDENCE = ("annotation.json", "regions.parquet", "examples.parquet", "means.safetensors")

_ALL = (
    *(Subject(name, _bare, _read_bare, f"{SITE}/p2/{name}") for name in _BARE),
    *map(_one_file, _BESIDE),
    *(_one_file(f"annotation/{name}") for name in _EVIDENCE),
    Subject("checkpoint of a build", _work_folder, _read_work_folder, "out/.build/**/*"),
    Subject("checkpoint of an annotation", _annotate_checkpoint, _read_annotate_checkpoint, "checkpoint-*/*"),
    Subject("concept", _concept, _read_concept, "concept/*"),
    Subject("kept activations", _kept, _read_kept, "activations/*"),
    Subject("sole_covers.json", _covers, _read_covers, "sole_covers.json"),
    Subject("search index", _index, _read_index, "cache/search/*", cost=3),
    Subject("map in the cache", _atlas, _read_atlas, "cache/atlas/*", cost=5),
    Subject("SAELens export", _exported("saelens"), _read_sae, "sae/*", ours=False),
    Subject("sparsify export", _exported("sparsify"), _read_sae, "sae/*", ours=False),
    Subject("Gemma Scope npz", _gemma_scope("npz"), _read_sae, "sae/*", ours=False),
    Subject("Gemma Scope safetensors", _gemma_scope("safetensors"), _read_sae, "sae/*", ours=False),
    Subject("published pickle", _pickled, _read_pickled, "*.*", ours=False),
    Subject("texts", _texts, _read_texts, "*", ours=False),
    Subject("model folder", _model_folder, _read_model, "tiny/*", ours=False, cost=30),
    Subject("GGUF", _gguf, _read_gguf, "*", ours=False, cost=60),
)
SUBJECTS = {subject.name: subject for subject in _ALL}
