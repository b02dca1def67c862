"""Reconstruction on a CPU at several sites: PREREGISTRATION.md of `ep_experiments/reconstruction`, parts 6 and 7.

    python -m experiments.studies.reconstruction tokens DIR/tokens.npz MODEL --tokens 0.32M
    python -m experiments.studies.reconstruction tokens DIR/more.npz MODEL --tokens 1.12M  # which documents are held
        # out for what follows from tokens.npz alone; more.npz begins with the same windows
    python -m experiments.studies.reconstruction_sites extract DIR MODEL --layer 10 --layer 20 [--tokens 1_000_000]
    python -m experiments.studies.reconstruction_sites run DIR MODEL [--only PREFIX] [--seconds 1200]
    python -m experiments.studies.reconstruction_sites summary FILE.json --of DIR [--of DIR ...]

The work is cut into pieces, each a file in DIR/pieces; `run` does those that are not there yet, may be stopped and
called again, and several may run side by side.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from ep_experiments.nulls import gaussian_directions
from ep_experiments.reconstruction import arms
from ep_experiments.reconstruction.autoencoders import Kind, Recipe, train
from ep_experiments.reconstruction.measure import Measure, Text, rebuilt_at
from ep_experiments.reconstruction.ratios import losses, token_ratios
from exemplar_partitioning.core.calibration import BATCH, calibrate
from exemplar_partitioning.evaluating.result import Bootstrap
from exemplar_partitioning.files import to_json

from .reconstruction import HELD_OUT, Windows, activations, read_model, whole_documents

CPU = torch.device("cpu")
POOL, FEW = 60_000, 30_000  # training tokens
HELD = {"test": 2_000, "validation": 1_000}
KS, K = (1, 4, 16, 32), 32
BY_CE = ("exemplars", "random", "topk", "3 least squares from means")  # in order 0
PERCENTILES = (0.5, 1.0, 2.0, 4.0)
CURVE = (7_500, 15_000, POOL)
BATCHES = {100_000: 128, 1_000_000: 512}  # rows of a training step on tokens seen once, as in part 2
KINDS: tuple[Kind, ...] = ("topk", "batchtopk", "frozen")
MORE = 40_000  # training tokens of a file after the pool
SOLVED, STEPS = 5_000, 16  # rows and steps of the codes that least squares looks at
TRAINED = 256  # rows of a training step


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("task", choices=["extract", "run", "summary"])
    options.add_argument("dir", type=Path)
    options.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    options.add_argument("--layer", type=int, action="append")
    options.add_argument("--only", action="append", help="pieces whose names begin so")
    options.add_argument("--seconds", type=float, default=1100, help="no new piece is begun after")
    options.add_argument("--tokens", type=int, default=POOL, help="of training, to extract")
    options.add_argument("--of", type=Path, action="append", default=[])
    given = options.parse_args()
    torch.set_float32_matmul_precision("highest")
    if given.task == "summary":
        given.dir.write_bytes(to_json(summary(given.of)))
    elif given.task == "extract":
        extract(given.dir, given.model, given.layer, given.tokens)
    else:
        Study(given.dir, given.model).run(given.only or [""], given.seconds)


def extract(folder: Path, name: str, layers: Sequence[int], tokens: int) -> None:
    """Activations of held-out and training documents; parts that are there are left as they are."""
    model = read_model(name).bfloat16()
    for part in ("test", "validation", *training_parts(tokens)):
        windows = Windows(tokens_file(folder, part), CPU)
        chosen_b = windows_of(windows, part)
        files = {layer: folder / f"{part}-{layer}.safetensors" for layer in layers}
        if all(file.is_file() for file in files.values()):
            continue
        begun = time.process_time()
        x = activations(model, list(layers), windows, chosen_b)
        for layer, file in files.items():
            save_file({"x": x[layer]}, file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
        say(f"{part}: {len(x[layers[0]]):,} activations, {time.process_time() - begun:.0f} s")


def windows_of(windows: Windows, part: str) -> np.ndarray:
    """Windows of a part of the text; documents of one part are in no other."""
    held_b = windows.document_b % HELD_OUT == 0
    if part == "pool":
        return windows.part(np.flatnonzero(~held_b), POOL)
    if part.startswith("more"):
        training_b, before = np.flatnonzero(~held_b), POOL + int(part.removeprefix("more")) * MORE
        return windows.part(training_b, before + MORE)[len(windows.part(training_b, before)) :]
    test_b = held_b & (windows.document_b // HELD_OUT % 2 == 1)
    return whole_documents(windows, np.flatnonzero(test_b if part == "test" else held_b & ~test_b), HELD[part])


def tokens_file(folder: Path, part: str) -> Path:
    """Where a part's tokens are."""
    return folder / ("more.npz" if part.startswith("more") else "tokens.npz")


def training_parts(tokens: int) -> list[str]:
    """Parts that hold so many tokens of training."""
    return ["pool", *(f"more{number}" for number in range(-(-(tokens - POOL) // MORE)))]


@dataclass(frozen=True)
class Stream:
    """What an order sees of a layer, document after document, with its centre and thresholds."""

    x_nd: Tensor
    center_d: Tensor
    thresholds: dict[float, float]


@dataclass
class Study:
    """All pieces of one folder."""

    dir: Path
    model_name: str
    _measures: dict[tuple[int, str], Measure] = field(default_factory=dict)

    def run(self, only: Sequence[str], seconds: float) -> None:
        """Pieces that are not there, in the order of their weight."""
        begun = time.monotonic()
        (self.dir / "pieces").mkdir(exist_ok=True)
        names = [name for prefix in only for name in self.pieces() if name.startswith(prefix)]
        for name in dict.fromkeys(names):
            file = self.dir / "pieces" / f"{name}.json"
            if file.is_file() or time.monotonic() - begun > seconds or not _claimed(file.with_suffix(".busy")):
                continue
            started = time.process_time()
            rows = list(self.pieces()[name]())
            facts = {"piece": name, "seconds": round(time.process_time() - started, 1), "torch": torch.__version__}
            facts["digest"] = self.windows.digest
            file.with_suffix(".part").write_text(json.dumps(facts | {"rows": rows}))
            file.with_suffix(".part").rename(file)
            file.with_suffix(".busy").unlink()
            say(f"{name}: {facts['seconds']} s")

    def pieces(self) -> dict[str, Callable[[], Iterator[dict[str, Any]]]]:
        """What there is to do, by name."""
        layers = sorted({int(file.stem.split("-")[-1]) for file in self.dir.glob("test-*.safetensors")})
        found: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {}

        def add(name: str, work: Callable[..., Iterator[dict[str, Any]]], *at: Any) -> None:
            found[name] = lambda: work(*at)

        for layer in layers:
            add(f"{layer}-baselines", self.baselines, layer)
            add(f"{layer}-validation", self.validation, layer)
            for order in range(3):
                add(f"{layer}-directions-1-{order}", self.directions, layer, 1.0, order)
                add(f"{layer}-topk-{order}", self.autoencoder, layer, Recipe("topk", seed=order))
            add(f"{layer}-topk-once-0", self.autoencoder, layer, Recipe("topk"), FEW, 1)
        for order, layer, part in itertools.product(range(5), layers, ("kept", "solved", "grown", "passes")):
            add(f"variants-{layer}-{part}-{order}", self.variants, layer, order, part)
        for order, layer in itertools.product(range(2), layers):
            add(f"{layer}-itda-{order}", self.itda, layer, order)
            add(f"{layer}-batchtopk-{order}", self.autoencoder, layer, Recipe("batchtopk", seed=order))
            for percentile in (4.0, 2.0, 0.5):
                add(f"{layer}-directions-{percentile:g}-{order}", self.directions, layer, percentile, order)
        for layer, tokens in itertools.product(layers, BATCHES):
            if not (self.dir / f"{training_parts(tokens)[-1]}-{layer}.safetensors").is_file():
                continue
            recipes = {f"{kind}-{tokens}-{seed}": Recipe(kind, seed=seed) for kind in KINDS for seed in range(2)}
            recipes[f"topk-{tokens}-faster-1"] = Recipe("topk", 3e-3, seed=1)
            for name, recipe in recipes.items():
                add(f"{layer}-{name}", self.autoencoder, layer, recipe, tokens, 1)
        for layer in layers:
            add(f"{layer}-frozen-0", self.autoencoder, layer, Recipe("frozen"))
            for order in range(2):
                add(f"variants-{layer}-large-{order}", self.variants, layer, order, "large")
            for tokens, order in itertools.product(CURVE, range(2)):
                add(f"curve-{layer}-{tokens}-{order}", self.curve, layer, tokens, order)
                add(f"curve-{layer}-topk-{tokens}-{order}", self.autoencoder, layer, Recipe("topk", seed=order), tokens)
        return found

    # what is there -----------------------------------------------------------------------------------------------

    @cached_property
    def windows(self) -> Windows:
        """Token ids of held-out documents and of the pool."""
        return Windows(tokens_file(self.dir, "pool"), CPU)

    @cached_property
    def longer(self) -> Windows:
        """Of the pool and what comes after it."""
        return Windows(tokens_file(self.dir, "more"), CPU)

    @cached_property
    def model(self) -> Any:
        """In bfloat16."""
        return read_model(self.model_name).bfloat16()

    def measure(self, layer: int, name: str) -> Measure:
        """Held-out text at a layer."""
        if (layer, name) not in self._measures:
            part_b = windows_of(self.windows, name)
            x_nd = load_file(self.dir / f"{name}-{layer}.safetensors")["x"].float()
            document_n = torch.from_numpy(np.unique(self.windows.rows(part_b), return_inverse=True)[1])
            ids_bs = torch.from_numpy(self.windows.ids_bs[part_b]).long()
            text = Text(ids_bs, torch.from_numpy(self.windows.text_bs[part_b]), x_nd, document_n)
            self._measures[layer, name] = Measure(None, f"resid_post.{layer}", text)  # the model when it is needed
        return self._measures[layer, name]

    def ordered(self, layer: int, order: int, tokens: int) -> Tensor:
        """The first of a layer's activations as they were kept, documents in an order of their own."""
        parts = training_parts(tokens)
        windows = [self.windows if part == "pool" else self.longer for part in parts]
        document_n = np.concatenate([of.rows(windows_of(of, part)) for of, part in zip(windows, parts, strict=True)])
        documents, inverse_n = np.unique(document_n, return_inverse=True)
        rank = np.random.default_rng(order).permutation(len(documents))
        rows = torch.from_numpy(np.argsort(rank[inverse_n], kind="stable")[:tokens])
        return torch.cat([load_file(self.dir / f"{part}-{layer}.safetensors")["x"] for part in parts])[rows]

    def stream(self, layer: int, order: int, tokens: int = FEW) -> Stream:
        """What directions are made from."""
        x_nd = self.ordered(layer, order, tokens).float()
        calibration = calibrate([x_nd[:BATCH]], list(PERCENTILES))
        return Stream(x_nd, torch.as_tensor(calibration.center).float(), calibration.thresholds)

    def features(self, layer: int) -> int:
        """Of every autoencoder: as many as percentile 1 has directions for FEW tokens in order 0."""
        piece = json.loads((self.dir / "pieces" / f"{layer}-directions-1-0.json").read_text())
        return piece["rows"][0]["directions"]

    # arms --------------------------------------------------------------------------------------------------------

    def baselines(self, layer: int) -> Iterator[dict[str, Any]]:
        """Sums over documents that all others are set against."""
        measure = self.measure(layer, "test")
        measure.model = self.model
        for name in ("total", "count", "clean", "zero", "mean"):
            yield {"layer": layer, "baseline": name, "sums": getattr(measure, f"{name}_w").tolist()}

    def validation(self, layer: int) -> Iterator[dict[str, Any]]:
        """The same of the text that variants are chosen on, as far as needed."""
        total_w = self.measure(layer, "validation").total_w
        yield {"layer": layer, "baseline": "validation total", "sums": total_w.tolist()}

    def directions(self, layer: int, percentile: float, order: int) -> Iterator[dict[str, Any]]:
        """Exemplars and what they must be compared with, at a percentile."""
        return self._directions(layer, percentile, order, FEW)

    def curve(self, layer: int, tokens: int, order: int) -> Iterator[dict[str, Any]]:
        """The same at other numbers of tokens, at percentile 1."""
        return self._directions(layer, 1.0, order, tokens)

    def _directions(self, layer: int, percentile: float, order: int, tokens: int) -> Iterator[dict[str, Any]]:
        stream = self.stream(layer, order, tokens)
        x_nd, center_d = stream.x_nd, stream.center_d
        facts = {"layer": layer, "order": order, "tokens": tokens, "percentile": percentile}

        def rows(arm: str, make: Callable[[], Tensor]) -> Iterator[dict[str, Any]]:
            begun = time.process_time()
            made_kd = make()
            about = facts | {"arm": arm, "seconds": time.process_time() - begun}
            yield from self.pursued(about, made_kd, center_d)

        begun = time.process_time()
        exemplars_kd = arms.exemplars(x_nd, center_d, stream.thresholds[percentile])
        seconds, k = time.process_time() - begun, len(exemplars_kd)
        yield from self.pursued(facts | {"arm": "exemplars", "seconds": seconds}, exemplars_kd, center_d)
        yield from rows("means", lambda: arms.means(exemplars_kd, x_nd, center_d))
        yield from rows("random", lambda: arms.random_activations(x_nd, center_d, k, order))
        yield from rows("k-means", lambda: arms.spherical_kmeans(x_nd, center_d, k, order))
        if order == 0 and tokens == FEW:
            yield from rows("Gaussian", lambda: gaussian_directions(x_nd.shape[1], k, order))

    def itda(self, layer: int, order: int) -> Iterator[dict[str, Any]]:
        """By its paper's rule, for as many directions as percentile 1 has."""
        stream, k = self.stream(layer, order), self.features(layer)
        u_nd = normalize(stream.x_nd - stream.center_d, dim=1)
        begun = time.process_time()
        made_kd, tau = arms.of_size(lambda share: arms.grown(u_nd, share, K, 2 * k, rows=128), k, 5)
        facts = {"layer": layer, "order": order, "tokens": FEW, "percentile": None, "arm": "ITDA", "tau": tau}
        facts["seconds"] = (time.process_time() - begun) / 5
        yield from self.pursued(facts, made_kd[:k], stream.center_d)

    def autoencoder(self, layer: int, recipe: Recipe, tokens: int = FEW, passes: int = 5) -> Iterator[dict[str, Any]]:
        """Trained on an order's first activations: its own codes, and pursuit over its decoder."""
        x_nd, generator = self.ordered(layer, recipe.seed, tokens), torch.Generator().manual_seed(recipe.seed)
        batch = BATCHES.get(tokens, TRAINED)
        mixed = torch.cat([torch.randperm(len(x_nd), generator=generator) for _ in range(passes)])
        begun = time.process_time()
        torch.set_float32_matmul_precision("medium")
        (sae,) = train([recipe], x_nd, [mixed], self.features(layer), batch)
        torch.set_float32_matmul_precision("highest")
        facts = {"layer": layer, "order": recipe.seed, "tokens": tokens, "percentile": None, "arm": recipe.kind}
        facts |= {"passes": passes, "lr": recipe.lr, "batch": batch, "seconds": time.process_time() - begun}
        for name in ("validation", "test"):
            measure = self.measure(layer, name)
            code_nf = sae.encode(measure.text.x_nd)
            l0 = float((code_nf != 0).sum(dim=1).float().mean())
            about = facts | {"codes": "own", "directions": len(sae.W_dec), "k": None, "l0": l0}
            about["dead"] = int((~(code_nf != 0).any(dim=0)).sum())
            yield self.row(about, name, sae.decode(code_nf), ce=name == "test" and _whole(facts))
        yield from self.pursued(facts, sae.W_dec, sae.b_dec)

    def variants(self, layer: int, order: int, part: str) -> Iterator[dict[str, Any]]:
        """What might rebuild better than means, all with as many directions; on validation as well."""
        stream = self.stream(layer, order, POOL if part == "large" else FEW)
        x_nd, center_d, theta = stream.x_nd, stream.center_d, stream.thresholds
        u_nd = normalize(x_nd - center_d, dim=1)
        exemplars_kd = arms.exemplars(x_nd, center_d, theta[1.0])
        k, means_kd = len(exemplars_kd), arms.means(exemplars_kd, x_nd, center_d)
        rows = 6 * SOLVED if part == "large" else SOLVED
        some_nd = u_nd[torch.randperm(len(u_nd), generator=torch.Generator().manual_seed(0))[:rows]]
        random_kd = arms.random_activations(x_nd, center_d, k, order)
        once: list[Tensor] = []

        def updated() -> Tensor:
            once.append(arms.least_squares(means_kd, some_nd, STEPS, 1))
            return once[0]

        solved: dict[str, Callable[[], Tensor]] = {
            "1 least squares from means": updated,
            "3 least squares from means": lambda: arms.least_squares(once[0], some_nd, STEPS, 2),
            "3 least squares from random": lambda: arms.least_squares(random_kd, some_nd, STEPS, 3),
        }

        def second() -> Tensor:
            first_kd = arms.means(arms.exemplars(x_nd, center_d, theta[2.0]), x_nd, center_d)
            return arms.second_dictionary(first_kd, u_nd, k, 4, times=6)

        def of_left(*, residual: bool) -> Callable[[], Tensor]:
            def make(tau: float) -> Tensor:
                return arms.grown(u_nd, tau, K, 2 * k, residual=residual, rows=128)

            return lambda: arms.of_size(make, k, 5)[0][:k]

        made: dict[str, dict[str, Callable[[], Tensor]]] = {
            "kept": {"exemplars": lambda: exemplars_kd, "means": lambda: means_kd, "random": lambda: random_kd},
            "solved": solved,
            "passes": {
                "k-means": lambda: arms.spherical_kmeans(x_nd, center_d, k, order),
                "10 k-means passes from means": lambda: arms.lloyd(means_kd, u_nd, 10),
            },
            "grown": {
                "second dictionary of what is left": second,
                "ITDA": of_left(residual=False),
                "leader rule on what is left": of_left(residual=True),
            },
        }
        made["large"] = made["kept"] | solved
        facts = {"layer": layer, "order": order, "tokens": len(x_nd), "percentile": 1.0, "part": part}
        for name, make in made[part].items():
            begun = time.process_time()
            made_kd = make()
            about = facts | {"arm": name, "seconds": time.process_time() - begun}
            if name.endswith("from means"):
                about["cosine"] = float((made_kd * means_kd).sum(dim=1).mean())  # with what it began as
            yield from self.pursued(about, made_kd, center_d, both=True)

    # measuring ---------------------------------------------------------------------------------------------------

    def pursued(
        self, facts: dict[str, Any], directions_kd: Tensor, center_d: Tensor, *, both: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Directions with pursuit on test, or validation too."""
        about = {"codes": "pursuit", **facts, "directions": len(directions_kd)}
        for name in ("validation", "test") if both else ("test",):
            ks = KS if _whole(facts) and name == "test" else (K,)
            for k, x_nd in rebuilt_at(
                directions_kd, center_d, self.measure(facts["layer"], name).text.x_nd, ks
            ).items():
                ce = name == "test" and k == K and _whole(facts)
                yield self.row(about | {"k": k, "l0": float(k)}, name, x_nd, ce=ce)

    def row(self, facts: dict[str, Any], name: str, x_nd: Tensor, *, ce: bool) -> dict[str, Any]:
        """One measurement, with its sums over documents."""
        measure = self.measure(facts["layer"], name)
        row = facts | {"on": name, "error": measure.error(x_nd).tolist(), "relative": measure.relative(x_nd)}
        row["fvu"] = float(measure.error(x_nd).sum() / measure.total_w.sum())
        if ce:
            measure.model = self.model
            row["ce"] = measure.ce(x_nd).tolist()
        return row


def _whole(facts: dict[str, Any]) -> bool:
    """Measured at every L0, and by cross-entropy."""
    return (
        facts["order"] == 0
        and facts["tokens"] in (FEW, *BATCHES)
        and facts["arm"] in BY_CE
        and facts["percentile"] in (1.0, None)
    )


def _claimed(file: Path) -> bool:
    """Whether a piece is this process's to do: nobody who lives has it."""
    if file.is_file() and Path("/proc", file.read_text() or "0").is_dir():
        return False
    file.write_text(str(os.getpid()))
    return True


def summary(folders: Sequence[Path]) -> dict[str, Any]:
    """Figures of all pieces with intervals over documents; fvu_others as in `reconstruction.summary`."""
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for folder in folders:
        pieces = [json.loads(file.read_text()) for file in sorted((folder / "pieces").glob("*.json"))]
        all_rows = [row for piece in pieces for row in piece["rows"]]
        base = {(row["layer"], row["baseline"]): np.array(row["sums"]) for row in all_rows if "baseline" in row}
        about = {"tokens digest": pieces[0]["digest"], "torch": pieces[0]["torch"]}
        about["seconds"] = round(sum(piece["seconds"] for piece in pieces))
        for layer in sorted({layer for layer, _ in base}):
            count = base[layer, "count"].sum()
            ce = {name: round(float(base[layer, name].sum() / count), 4) for name in ("clean", "zero", "mean")}
            others = base[layer, "total"] <= base[layer, "total"].sum() / 10
            about[f"block {layer}"] = {"documents": len(others), "others": int(others.sum()), **ce}
        facts[folder.name] = about
        rows += [{"model": folder.name, **_figures(row, base)} for row in all_rows if "arm" in row]
        for layer in sorted({layer for layer, _ in base}):
            ratios += [{"model": folder.name, "layer": layer, **row} for row in _ratios(all_rows, layer, base)]
    return {"models": facts, "rows": rows, "ratios": ratios}


def _ratios(
    rows: list[dict[str, Any]], layer: int, base: dict[tuple[int, str], np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Of TopK that saw its tokens once, to directions at percentile 1, by FVU, where these have a curve."""
    total_w = base[layer, "total"]
    bootstrap, others_w = Bootstrap(len(total_w), 0), total_w <= total_w.sum() / 10
    rows = [row for row in rows if row["layer"] == layer and row.get("on") == "test" and "part" not in row]
    rows = [row for row in rows if row["k"] in (None, K)]

    def loss(row: dict[str, Any]) -> tuple[int, np.ndarray]:
        return row["tokens"], losses(bootstrap, np.array(row["error"]) * others_w, total_w * others_w)

    topk = [row for row in rows if row["arm"] == "topk" and row["passes"] == 1 and row["lr"] == Recipe("topk").lr]
    for arm in ("exemplars", "means", "random", "k-means"):
        mine = sorted((row for row in rows if row["arm"] == arm and row["percentile"] == 1), key=lambda r: r["tokens"])
        curves = [[loss(row) for row in mine if row["order"] == order] for order in sorted({r["order"] for r in mine})]
        curves = [curve for curve in curves if len(curve) > 1]
        for codes, tokens in sorted({(row["codes"], row["tokens"]) for row in topk}):
            targets = [loss(row) for row in topk if (row["codes"], row["tokens"]) == (codes, tokens)]
            if curves:
                yield {"arm": arm, "codes": codes, "tokens": tokens, **token_ratios(targets, curves)}


def _figures(row: dict[str, Any], base: dict[tuple[int, str], np.ndarray]) -> dict[str, Any]:
    kept = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
    error_w, ce_w = np.array(kept.pop("error")), kept.pop("ce", None)
    total_w = base[row["layer"], "total" if row["on"] == "test" else "validation total"]
    bootstrap, others_w = Bootstrap(len(total_w), 0), total_w <= total_w.sum() / 10

    def ratio(above_w: np.ndarray, below_w: np.ndarray) -> list[float]:
        interval = bootstrap.ratio(above_w, below_w)
        return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]

    kept |= {"fvu": ratio(error_w, total_w), "fvu_others": ratio(error_w * others_w, total_w * others_w)}
    if ce_w is not None:
        clean_w, zero_w, mean_w = (base[row["layer"], name] for name in ("clean", "zero", "mean"))
        kept["recovered_zero"] = ratio(zero_w - np.array(ce_w), zero_w - clean_w)
        kept["recovered_mean"] = ratio(mean_w - np.array(ce_w), mean_w - clean_w)
    return kept


def say(what: str) -> None:
    """With the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
