"""Reconstruction at full size on an accelerator: PREREGISTRATION.md of `ep_experiments/reconstruction`, part 2.

    python -m experiments.studies.reconstruction tokens TOKENS.npz [MODEL] [--tokens 20M]   # where the tokenizer is
    python -m experiments.studies.reconstruction run TOKENS.npz MODEL --out DIR [--device cuda]
    python -m experiments.studies.reconstruction run TOKENS.npz MODEL --out DIR --small [--block N ...]
    python -m experiments.studies.reconstruction summary FILE.json --of DIR [--of DIR ...]

Token ids of the packaged text are made first, so that the machine with the accelerator needs neither text nor
tokenizer. Activations stay on the device. Stages run in the order of their weight and stop when the time is up; what
was measured by then is in DIR: results.json (one row an arm), documents.npz (its sums over documents). MODEL is a GGUF
file or a name as `ep build` takes it. --small is part 3, for a CPU: the model in bfloat16, its activations kept in DIR.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from ep_experiments.nulls import gaussian_directions
from ep_experiments.reconstruction import arms
from ep_experiments.reconstruction.autoencoders import Recipe, train
from ep_experiments.reconstruction.measure import Measure, Text, rebuilt_at
from ep_experiments.reconstruction.ratios import losses, token_ratios
from exemplar_partitioning.core.calibration import BATCH, calibrate
from exemplar_partitioning.evaluating.result import Bootstrap
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.files import to_json

MAIN, OTHERS = 15, (10, 20)
HELD_OUT = 16  # one document in so many; half of them for validation
STEPS = 16  # of pursuit in the variants that need codes of training rows


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    pool: int = 5_000_000
    more: int = 15_500_000
    few: int = 200_000
    curve: tuple[int, ...] = (20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
    validation: int = 4_096
    test: int = 8_192
    orders: int = 5
    seeds: int = 3
    batch: int = 512
    ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    ks_few: tuple[int, ...] = (1, 4, 16, 32)
    percentiles: tuple[float, ...] = (0.5, 0.7, 1.0, 2.0, 4.0)
    solved: int = 200_000
    """Rows whose codes least squares looks at."""


SMALL = Sizes(
    pool=60_000,
    few=30_000,
    curve=(30_000,),
    validation=1_000,
    test=2_000,
    orders=3,
    seeds=1,
    batch=256,
    ks=(32,),
    ks_few=(32,),
    solved=5_000,
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("task", choices=["tokens", "run", "summary"])
    options.add_argument("file", type=Path)
    options.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    options.add_argument("--out", type=Path)
    options.add_argument("--of", type=Path, action="append", default=[])
    options.add_argument("--tokens", default="20M")
    options.add_argument("--device", default="cuda")
    options.add_argument("--seconds", type=float, default=330)
    options.add_argument("--small", action="store_true", help="part 3, for a CPU, until done")
    options.add_argument("--block", type=int, action="append", help="blocks of --small; variants at the first")
    given = options.parse_args()
    if given.task == "tokens":
        write_tokens(given.file, given.model, round(float(given.tokens.removesuffix("M")) * 1e6))
        return
    if given.task == "summary":
        given.file.write_bytes(to_json(summary(given.of)))
        return
    study = Study(given, SMALL if given.small else Sizes())
    study.run()


def write_tokens(file: Path, model: str, tokens: int) -> None:
    """Windows of the packaged text as a build reads them."""
    from exemplar_partitioning.demo.corpus import documents_of
    from exemplar_partitioning.models.identity import special_token_ids
    from exemplar_partitioning.models.load import bos_id, load_model
    from exemplar_partitioning.stream import text_chunks
    from exemplar_partitioning.text.windowing import Windowing

    loaded = load_model(model)
    ids, lengths, documents, digest = [], [], [], ""
    for chunk in text_chunks(documents_of(None), loaded, Windowing(), tokens):
        digest = chunk.digest
        for window in chunk.windows:
            ids.append(window.ids.astype(np.int32))
            lengths.append(len(window.ids))
            documents.append(zlib.crc32(window.document.encode()))
    special = sorted(special_token_ids(loaded.tokenizer) | {bos_id(loaded)})
    arrays = {"length": np.array(lengths, np.uint16), "document": np.array(documents, np.uint32)}
    np.savez(file, ids=np.concatenate(ids), special=np.array(special), digest=np.array(digest), **arrays)


class Windows:
    """Token ids of all windows, and which of them are text."""

    def __init__(self, file: Path, device: torch.device):
        with np.load(file) as data:
            ids_n, self.length_b, self.document_b = data["ids"], data["length"].astype(int), data["document"]
            special, self.digest = data["special"], str(data["digest"])
        at_b = np.concatenate([[0], np.cumsum(self.length_b)])
        width = int(self.length_b.max())
        place_bs = at_b[:-1, None] + np.arange(width)
        real_bs = np.arange(width) < self.length_b[:, None]
        self.ids_bs = np.where(real_bs, ids_n[np.minimum(place_bs, len(ids_n) - 1)], 0).astype(np.int32)
        self.text_bs = real_bs & ~np.isin(self.ids_bs, special)
        self.device = device

    def part(self, chosen_b: np.ndarray, tokens: int) -> np.ndarray:
        """The first of some windows that hold so many tokens of text."""
        held = np.cumsum(self.text_bs[chosen_b].sum(axis=1))
        return chosen_b[: int(np.searchsorted(held, tokens)) + 1]

    def rows(self, chosen_b: np.ndarray) -> np.ndarray:
        """The document of each of their tokens of text, hashed."""
        return np.repeat(self.document_b[chosen_b], self.text_bs[chosen_b].sum(axis=1))


@torch.inference_mode()
def activations(model: Any, layers: Sequence[int], windows: Windows, chosen_b: np.ndarray) -> dict[int, Tensor]:
    """Activations of the tokens of text after some blocks, in the model's own kind of numbers."""
    n, dtype = int(windows.text_bs[chosen_b].sum()), model.dtype
    x = {layer: torch.empty(n, model.config.hidden_size, device=windows.device, dtype=dtype) for layer in layers}
    whole = model.model.layers
    model.model.layers = whole[: max(layers) + 1]
    place_bn = np.split(np.arange(n), np.cumsum(windows.text_bs[chosen_b].sum(axis=1))[:-1])
    for part in _alike(windows.length_b[chosen_b], 2**16 if windows.device.type == "cuda" else 2**11):
        real = slice(0, int(windows.length_b[chosen_b[part]].max()))
        text_bs = torch.from_numpy(windows.text_bs[chosen_b[part], real]).to(windows.device)
        ids_bs = torch.from_numpy(windows.ids_bs[chosen_b[part], real]).to(windows.device).long()
        rows = torch.from_numpy(np.concatenate([place_bn[at] for at in part])).to(windows.device)
        handles = [whole[layer].register_forward_hook(_keep(x[layer], rows, text_bs)) for layer in layers]
        model.model(ids_bs, use_cache=False)
        for handle in handles:
            handle.remove()
    model.model.layers = whole
    return x


def _alike(length_b: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Windows by length, so that little is padding, about so many tokens at once."""
    order_b = np.argsort(length_b, kind="stable")
    return np.split(order_b, np.flatnonzero(np.diff(np.cumsum(length_b[order_b]) // tokens)) + 1)


def _keep(into_nd: Tensor, rows: Tensor, text_bs: Tensor) -> Callable[..., None]:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        into_nd[rows] = (output[0] if isinstance(output, tuple) else output)[text_bs]

    return hook


@dataclass
class Study:
    """One run over everything."""

    given: argparse.Namespace
    sizes: Sizes
    begun: float = field(default_factory=time.monotonic)
    rows: list[dict[str, Any]] = field(default_factory=list)
    sums: list[dict[str, np.ndarray]] = field(default_factory=list)

    def run(self) -> None:
        """All stages."""
        torch.set_float32_matmul_precision("highest")
        self.device = torch.device("cpu" if self.given.small else self.given.device)
        self.layers = (self.given.block or [MAIN, *OTHERS]) if self.given.small else [MAIN, *OTHERS]
        self.given.out.mkdir(parents=True, exist_ok=True)
        self.model = read_model(self.given.model).to(self.device)
        self.windows = Windows(self.given.file, self.device)
        fingerprint = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in self.model.parameters()))
        self.facts: dict[str, Any] = {
            "digest": self.windows.digest,
            "weights": fingerprint.hexdigest(),
            "torch": torch.__version__,
            "machine": torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU",
        }
        self.say(f"model {fingerprint.hexdigest()[:12]}")
        if self.given.small:
            self.model = self.model.bfloat16()
        self.extract()
        orders = range(self.sizes.orders)
        stages: list[tuple[str, Callable[[], None]]] = [
            *((f"curve {order}", lambda order=order: self.curve(MAIN, order)) for order in orders),
            ("autoencoders", lambda: self.autoencoders(MAIN, whole=True)),
            *((f"grid {order}", lambda order=order: self.grid(MAIN, order)) for order in orders),
            *((f"variants {order}", lambda order=order: self.variants(MAIN, order)) for order in orders),
            *((f"block {layer}", lambda layer=layer: self.other(layer)) for layer in OTHERS),
            ("more tokens", self.more),
        ]
        if self.given.small:
            both = [(order, layer) for order in orders for layer in self.layers[: None if order < 2 else 1]]
            stages = [
                (f"block {layer}, order {order}", lambda at=(layer, order): self.small(*at)) for order, layer in both
            ]
        for name, stage in stages:
            try:
                stage()
            except TimeoutError:
                self.say(f"no time left in {name}")
                self.facts["stopped"] = name
                break
            except Exception as error:  # what was measured is kept
                self.say(f"{name} failed: {error!r}")
                self.facts.setdefault("failed", {})[name] = repr(error)
            self.write()
        self.write()

    def extract(self) -> None:
        """Training, validation and test activations of the three sites."""
        document_b = self.windows.document_b
        held_b = document_b % HELD_OUT == 0
        test_b = held_b & (document_b // HELD_OUT % 2 == 1)
        self.training_b = np.flatnonzero(~held_b)
        self.pool_b = self.windows.part(self.training_b, self.sizes.pool)
        layers, texts = sorted(self.layers), {}
        for name, chosen_b, tokens in (
            ("validation", np.flatnonzero(held_b & ~test_b), self.sizes.validation),
            ("test", np.flatnonzero(test_b), self.sizes.test),
        ):
            part_b = whole_documents(self.windows, chosen_b, tokens)
            texts[name] = part_b, self.activations(name, part_b)
        self.x = self.activations("pool", self.pool_b)
        self.document_n = self.windows.rows(self.pool_b)
        self.sync()
        self.say(f"{len(self.document_n):,} activations at {len(layers)} sites")
        self.measures = {
            (layer, name): Measure(self.model, f"resid_post.{layer}", self.text(part_b, x[layer]))
            for name, (part_b, x) in texts.items()
            for layer in layers
        }
        for (layer, name), measure in self.measures.items():
            about: dict[str, Any] = {"tokens": len(measure.text.x_nd), "documents": measure.text.documents}
            for of in () if self.given.small else ("clean", "zero", "mean"):
                about[of] = float(getattr(measure, f"{of}_w").sum() / measure.count_w.sum())
            self.facts[f"{name} {layer}"] = about
            self.say(f"{name} {layer} {about}")

    def activations(self, name: str, chosen_b: np.ndarray) -> dict[int, Tensor]:
        """Of every block; a small run keeps them, so that another goes on from there."""
        file = self.given.out / f"{name}-activations.safetensors"
        if self.given.small and file.is_file():
            return {int(layer): x_nd for layer, x_nd in load_file(file).items()}
        x = activations(self.model, sorted(self.layers), self.windows, chosen_b)
        if self.given.small:
            save_file({str(layer): x_nd for layer, x_nd in x.items()}, file)
            self.say(f"{name}: {len(chosen_b):,} windows")
        return x

    def text(self, part_b: np.ndarray, x_nd: Tensor) -> Text:
        """Held-out windows for `Measure`."""
        ids_bs = torch.from_numpy(self.windows.ids_bs[part_b]).to(self.device).long()
        text_bs = torch.from_numpy(self.windows.text_bs[part_b]).to(self.device)
        document_n = np.unique(self.windows.rows(part_b), return_inverse=True)[1]
        return Text(ids_bs, text_bs, x_nd.float(), torch.from_numpy(document_n).to(self.device))

    def ordered(self, layer: int, order: int, tokens: int) -> Tensor:
        """Training activations, documents in an order of their own."""
        return self.x[layer][self.order(order, tokens)].float()

    def order(self, order: int, tokens: int) -> Tensor:
        """Their rows."""
        documents, inverse_n = np.unique(self.document_n, return_inverse=True)
        rank = np.random.default_rng(order).permutation(len(documents))
        rows = np.argsort(rank[inverse_n], kind="stable")[:tokens]
        return torch.from_numpy(rows).to(self.device)

    # arms --------------------------------------------------------------------------------------------------------

    def curve(self, layer: int, order: int) -> None:
        """Exemplars, means, random activations and k-means at percentile 1, over numbers of training tokens."""
        for tokens in self.sizes.curve if layer == MAIN else (self.sizes.few,):
            self.check(20 if layer == MAIN and order == 0 else 40)
            x_nd = self.ordered(layer, order, tokens)
            center_d, theta = self.calibrated(layer, order)
            begun = time.monotonic()
            exemplars_kd = arms.exemplars(x_nd, center_d, theta[1.0])
            self.sync()
            seconds = time.monotonic() - begun
            k = len(exemplars_kd)
            every = order == 0 and tokens == self.sizes.few
            if every or self.given.small:
                self.k_of[layer] = k
            if every:
                self.keep(f"dictionary-{layer}", {"exemplars": exemplars_kd, "center": center_d})
            facts = {"layer": layer, "order": order, "tokens": tokens, "percentile": 1.0}
            self.add(facts | {"arm": "exemplars", "seconds": seconds}, exemplars_kd, center_d, every)
            self.add(facts | {"arm": "means"}, arms.means(exemplars_kd, x_nd, center_d), center_d, every)
            self.add(facts | {"arm": "random"}, arms.random_activations(x_nd, center_d, k, order), center_d, every)
            begun = time.monotonic()
            centroids_kd = arms.spherical_kmeans(x_nd, center_d, k, order)
            self.sync()
            self.add(facts | {"arm": "k-means", "seconds": time.monotonic() - begun}, centroids_kd, center_d, every)
            if every:
                self.add(facts | {"arm": "Gaussian"}, self.gaussian(k, order), center_d, every)
        self.say(f"curve {layer}, order {order}")

    def small(self, layer: int, order: int) -> None:
        """Part 3: directions, an autoencoder of the same tokens, seen five times, and at the first block variants."""
        self.curve(layer, order)
        self.trained(layer, [Recipe("topk", seed=order)], self.sizes.few, self.sizes.batch, epochs=5)
        self.write()
        if layer == self.layers[0]:
            self.variants(layer, order)

    k_of: dict[int, int] = field(default_factory=dict)

    def gaussian(self, k: int, seed: int) -> Tensor:
        """Directions that know nothing."""
        return gaussian_directions(self.model.config.hidden_size, k, seed).to(self.device)

    def calibrated(self, layer: int, order: int) -> tuple[Tensor, dict[float, float]]:
        """Centre and thresholds from the first rows of an order."""
        if (layer, order) not in self._calibrations:
            found = calibrate([self.ordered(layer, order, min(BATCH, self.sizes.few))], list(self.sizes.percentiles))
            self._calibrations[layer, order] = torch.as_tensor(found.center).float().to(self.device), found.thresholds
        return self._calibrations[layer, order]

    _calibrations: dict[tuple[int, int], tuple[Tensor, dict[float, float]]] = field(default_factory=dict)

    def grid(self, layer: int, order: int) -> None:
        """Other percentiles at one number of tokens, and several of them as one frame."""
        x_nd = self.ordered(layer, order, self.sizes.few)
        center_d, theta = self.calibrated(layer, order)
        frame = []
        for percentile in self.sizes.percentiles:
            self.check(30)
            exemplars_kd = arms.exemplars(x_nd, center_d, theta[percentile])
            means_kd = arms.means(exemplars_kd, x_nd, center_d)
            frame += [means_kd] if percentile >= 1 else []
            facts = {"layer": layer, "order": order, "tokens": self.sizes.few, "percentile": percentile}
            if percentile == 1.0:
                continue  # measured by `curve`
            k = len(exemplars_kd)
            self.add(facts | {"arm": "exemplars"}, exemplars_kd, center_d)
            self.add(facts | {"arm": "means"}, means_kd, center_d)
            self.add(facts | {"arm": "random"}, arms.random_activations(x_nd, center_d, k, order), center_d)
            self.add(facts | {"arm": "k-means"}, arms.spherical_kmeans(x_nd, center_d, k, order), center_d)
        facts = {"layer": layer, "order": order, "tokens": self.sizes.few, "percentile": None}
        self.add(facts | {"arm": "percentiles 1, 2, 4 as one"}, torch.cat(frame), center_d, both=True)
        self.say(f"grid {layer}, order {order}")

    def variants(self, layer: int, order: int) -> None:
        """What might rebuild better, all with as many directions as percentile 1 has; on validation as well."""
        x_nd = self.ordered(layer, order, self.sizes.few)
        center_d, theta = self.calibrated(layer, order)
        u_nd = normalize(x_nd - center_d, dim=1)
        exemplars_kd = arms.exemplars(x_nd, center_d, theta[1.0])
        k = len(exemplars_kd)
        means_kd = arms.means(exemplars_kd, x_nd, center_d)
        facts = {"layer": layer, "order": order, "tokens": self.sizes.few, "percentile": 1.0}
        for name, make in self._made(exemplars_kd, means_kd, u_nd, k, x_nd, center_d, theta):
            self.check(20)
            begun = time.monotonic()
            directions_kd = make()
            self.sync()
            about = facts | {"arm": name, "seconds": time.monotonic() - begun}
            self.add(about, directions_kd, center_d, both=True)
            self.say(f"{name}, {layer}, order {order}")
            self.write()

    def _made(
        self, exemplars_kd: Tensor, means_kd: Tensor, u_nd: Tensor, k: int, x_nd: Tensor, center_d: Tensor, theta: Any
    ) -> Iterator[tuple[str, Callable[[], Tensor]]]:
        rows = 512 if self.device.type == "cuda" else 64
        first_kd = arms.means(arms.exemplars(x_nd, center_d, theta[2.0]), x_nd, center_d)
        yield "means", lambda: means_kd
        yield "3 k-means passes from means", lambda: arms.lloyd(means_kd, u_nd, 3)
        yield "10 k-means passes from means", lambda: arms.lloyd(means_kd, u_nd, 10)
        some_nd = u_nd[torch.randperm(len(u_nd), generator=torch.Generator().manual_seed(0))[: self.sizes.solved]]
        yield "1 least squares from means", lambda: arms.least_squares(means_kd, some_nd, STEPS, 1)
        yield "3 least squares from means", lambda: arms.least_squares(means_kd, some_nd, STEPS, 3)
        random_kd = arms.random_activations(x_nd, center_d, k, 0)
        yield "3 least squares from random", lambda: arms.least_squares(random_kd, some_nd, STEPS, 3)
        yield "second dictionary of what is left", lambda: arms.second_dictionary(first_kd, u_nd, k, 4, times=5)
        yield "ITDA", lambda: arms.of_size(lambda t: arms.grown(u_nd, t, 32, 2 * k, rows=rows), k, 5)[0][:k]
        yield (
            "leader rule on what is left",
            lambda: arms.of_size(lambda t: arms.grown(u_nd, t, 32, 2 * k, residual=True, rows=rows), k, 5)[0][:k],
        )

    # autoencoders ------------------------------------------------------------------------------------------------

    def autoencoders(self, layer: int, *, whole: bool) -> None:
        """Trained at as many features as percentile 1 has directions."""
        pool, seeds, batch = len(self.document_n), range(self.sizes.seeds), self.sizes.batch
        budgets = (self.sizes.few // 2, pool // 5, pool)
        small = max(batch // 4, 16)
        two = (0, 1)
        if not whole:
            for tokens, size in zip(budgets, (small, batch, batch), strict=True):
                self.trained(layer, [Recipe("topk", seed=seed) for seed in two], tokens, size)
            return
        for tokens, size, rates in zip(
            budgets, (small, batch, batch), ((1e-3, 3e-3), (3e-4, 1e-3, 3e-3), (3e-4, 1e-3)), strict=True
        ):
            self.trained(layer, [Recipe("topk", rate, seed=s) for rate in rates for s in seeds], tokens, size)
        self.trained(layer, [Recipe("topk", seed=s) for s in seeds], self.sizes.few, batch, epochs=10)
        for tokens, size in zip(budgets, (small, batch, batch), strict=True):
            self.trained(layer, [Recipe("batchtopk", seed=s) for s in two], tokens, size)
            self.trained(layer, [Recipe("frozen", seed=s) for s in two], tokens, size)
            penalties = (0.5, 1.0, 2.0, 4.0)
            self.trained(layer, [Recipe("jumprelu", l0_coefficient=penalty) for penalty in penalties], tokens, size)

    def trained(
        self, layer: int, recipes: list[Recipe], tokens: int, batch: int, *, epochs: int = 1, x_nd: Tensor | None = None
    ) -> None:
        """Train some side by side and measure each: its own codes, and pursuit over its decoder."""
        self.check(25)
        rows = []
        for recipe in recipes:
            of_order = torch.arange(tokens, device=self.device) if x_nd is not None else self.order(recipe.seed, tokens)
            generator = torch.Generator().manual_seed(recipe.seed)
            mixed = [torch.randperm(len(of_order), generator=generator).to(self.device) for _ in range(epochs)]
            rows.append(of_order[torch.cat(mixed)])
        x_nd = self.x[layer].float() if x_nd is None else x_nd
        begun = time.monotonic()
        torch.set_float32_matmul_precision("medium" if self.given.small else "high")
        saes = train(recipes, x_nd, rows, self.k_of[layer], batch)
        torch.set_float32_matmul_precision("highest")
        self.sync()
        seconds = (time.monotonic() - begun) / len(recipes)
        for recipe, sae in zip(recipes, saes, strict=True):
            facts = {"layer": layer, "order": recipe.seed, "tokens": tokens, "percentile": None, "epochs": epochs}
            facts |= {"arm": recipe.kind, "lr": recipe.lr, "l0_coefficient": recipe.l0_coefficient, "batch": batch}
            self.add_sae(facts | {"seconds": seconds}, sae)
            if layer == MAIN and recipe.seed == 0 and tokens == len(self.document_n) and recipe.lr == 1e-3:
                self.keep(f"{recipe.kind}-{recipe.l0_coefficient:g}", _tensors(sae))
        self.say(f"{recipes[0].kind} on {tokens:,}, block {layer}: {seconds * len(recipes):.1f} s")

    def add_sae(self, facts: dict[str, Any], sae: SparseAutoencoder) -> None:
        """Own codes on validation and test, and pursuit over the decoder on test."""
        for name in ("validation", "test"):
            measure = self.measures[facts["layer"], name]
            code_nf = sae.encode(measure.text.x_nd)
            l0 = float((code_nf != 0).sum(dim=1).float().mean())
            about = facts | {"codes": "own", "on": name, "directions": len(sae.W_dec), "k": None, "l0": l0}
            about["dead"] = int((~(code_nf != 0).any(dim=0)).sum())
            self.record(about, measure, sae.decode(code_nf), ce=name == "test")
        self.add(facts | {"codes": "pursuit"}, sae.W_dec, sae.b_dec, every=facts["order"] == 0)

    # measuring ---------------------------------------------------------------------------------------------------

    def add(
        self, facts: dict[str, Any], directions_kd: Tensor, center_d: Tensor, every: bool = False, both: bool = False
    ) -> None:
        """Measure directions with pursuit at several k; cross-entropy at the largest of the few, or everywhere."""
        ks = self.sizes.ks if every else self.sizes.ks_few
        for name in ("validation", "test") if both else ("test",):
            measure = self.measures[facts["layer"], name]
            for k, x_nd in rebuilt_at(directions_kd, center_d, measure.text.x_nd, ks).items():
                about = {
                    "codes": "pursuit",
                    **facts,
                    "on": name,
                    "directions": len(directions_kd),
                    "k": k,
                    "l0": float(k),
                }
                ce = name == "test" and (every or k == max(self.sizes.ks_few))
                self.record(about, measure, x_nd, ce=ce)

    def record(self, facts: dict[str, Any], measure: Measure, x_nd: Tensor, *, ce: bool) -> None:
        """One row of the results."""
        ce = ce and not self.given.small
        sums = {"error": measure.error(x_nd)} | ({"ce": measure.ce(x_nd)} if ce else {})
        row = facts | {"fvu": float(sums["error"].sum() / measure.total_w.sum()), "relative": measure.relative(x_nd)}
        if ce:
            row["ce"] = float(sums["ce"].sum() / measure.count_w.sum())
        self.rows.append(row)
        self.sums.append({name: value.cpu().numpy() for name, value in sums.items()})

    # the end -----------------------------------------------------------------------------------------------------

    def other(self, layer: int) -> None:
        """The same, less of it, at another block."""
        for order in range(min(3, self.sizes.orders)):
            self.curve(layer, order)
        self.autoencoders(layer, whole=False)

    def more(self) -> None:
        """An autoencoder of many more tokens."""
        self.check(110)
        self.x.clear()
        more_b = self.windows.part(self.training_b, self.sizes.more)
        torch.set_float32_matmul_precision("high")  # these activations serve training only
        x_nd = activations(self.model, [MAIN], self.windows, more_b)[MAIN]
        self.say(f"{len(x_nd):,} activations")
        self.trained(MAIN, [Recipe("topk", 3e-4), Recipe("topk", 1e-3)], len(x_nd), 2 * self.sizes.batch, x_nd=x_nd)

    def check(self, needed: float) -> None:
        """Stop where the next piece would not be done in time."""
        if time.monotonic() - self.begun + needed > self.given.seconds and not self.given.small:
            raise TimeoutError

    def sync(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def say(self, what: str) -> None:
        """With the seconds since the start."""
        sys.stdout.write(f"{time.monotonic() - self.begun:6.1f}  {what}\n")
        sys.stdout.flush()

    def keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        """For later use, in half precision."""
        save_file(
            {key: t.half().cpu().contiguous() for key, t in tensors.items()}, self.given.out / f"{name}.safetensors"
        )

    def write(self) -> None:
        """Everything measured so far."""
        facts = self.facts | {"sizes": vars(self.sizes), "seconds": round(time.monotonic() - self.begun, 1)}
        facts |= {"command": " ".join(Path(word).name for word in sys.argv[1:])}
        (self.given.out / "results.json").write_text(json.dumps(facts | {"rows": self.rows}, indent=1))
        arrays = {}
        for (layer, name), measure in self.measures.items():
            for of in ("total", "count") if self.given.small else ("total", "count", "clean", "zero", "mean"):
                arrays[f"{of}-{layer}-{name}"] = getattr(measure, f"{of}_w").cpu().numpy()
        for i, sums in enumerate(self.sums):
            arrays |= {f"{name}-{i}": value.astype(np.float32) for name, value in sums.items()}
        np.savez_compressed(self.given.out / "documents.npz", **arrays)


def summary(folders: Sequence[Path]) -> dict[str, Any]:
    """What several runs measured on test, with intervals over documents.

    fvu_others: without the documents that hold more than a tenth of the squares: in these a few tokens have
    activations so long that they outweigh all others.
    """
    found: dict[str, Any] = {"runs": [], "rows": []}
    lost: list[dict[str, Any]] = []
    for run, folder in enumerate(folders):
        result = json.loads((folder / "results.json").read_text())
        rows = result.pop("rows")
        found["runs"].append(result)
        with np.load(folder / "documents.npz") as sums:
            for i, row in enumerate(rows):
                if row["on"] == "test":
                    of = {name: sums[f"{name}-{i}"] for name in ("error", "ce") if f"{name}-{i}" in sums}
                    found["rows"].append({"run": run, **_rounded(row), **_figures(row, of, sums)})
                    if row["layer"] == MAIN and row["k"] in (None, 32) and "ce" in of:
                        lost.append({"run": run, **row, "losses": _losses(row, of, sums)})
    return found | {"ratios": list(_ratios(lost))}


def _losses(row: dict[str, Any], of: dict[str, np.ndarray], sums: Any) -> dict[str, np.ndarray]:
    """What the token ratio is taken at, over resamples of the documents."""
    total_w, clean_w, zero_w = (sums[f"{name}-{row['layer']}-test"] for name in ("total", "clean", "zero"))
    bootstrap, others_w = Bootstrap(len(total_w), 0), total_w <= total_w.sum() / 10
    return {
        "fvu_others": losses(bootstrap, of["error"] * others_w, total_w * others_w),
        "recovered_zero": losses(bootstrap, of["ce"] - clean_w, zero_w - clean_w),
    }


def _ratios(lost: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of TopK at the learning rate that is best on validation, to directions at percentile 1."""

    def of(**wanted: object) -> list[dict[str, Any]]:
        return [row for row in lost if all(row.get(key) == value for key, value in wanted.items())]

    for codes, tokens in itertools.product(("own", "pursuit"), (100_000, 1_000_000, 5_000_001)):
        trained = of(arm="topk", codes=codes, tokens=tokens, epochs=1, lr=1e-3)
        for by, arm in itertools.product(("fvu_others", "recovered_zero"), ("exemplars", "means", "random", "k-means")):
            runs = [sorted(of(run=run, arm=arm, percentile=1.0), key=lambda row: row["tokens"]) for run in (0, 1)]
            curves = [[(row["tokens"], row["losses"][by]) for row in run] for run in runs]
            targets = [(row["tokens"], row["losses"][by]) for row in trained]
            yield {"tokens": tokens, "codes": codes, "by": by, "arm": arm, **token_ratios(targets, curves)}


def _figures(row: dict[str, Any], of: dict[str, np.ndarray], sums: Any) -> dict[str, list[float]]:
    total_w = sums[f"total-{row['layer']}-test"]
    bootstrap = Bootstrap(len(total_w), 0)
    others_w = total_w <= total_w.sum() / 10

    def ratio(above_w: np.ndarray, below_w: np.ndarray) -> list[float]:
        interval = bootstrap.ratio(above_w, below_w)
        return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]

    figures = {"fvu": ratio(of["error"], total_w), "fvu_others": ratio(of["error"] * others_w, total_w * others_w)}
    if "ce" in of:
        clean_w, zero_w, mean_w = (sums[f"{name}-{row['layer']}-test"] for name in ("clean", "zero", "mean"))
        figures["recovered_zero"] = ratio(zero_w - of["ce"], zero_w - clean_w)
        figures["recovered_mean"] = ratio(mean_w - of["ce"], mean_w - clean_w)
    return figures


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def whole_documents(windows: Windows, chosen_b: np.ndarray, tokens: int) -> np.ndarray:
    """Windows of whole documents, drawn at random, until there are so many tokens."""
    documents = np.random.default_rng(0).permutation(np.unique(windows.document_b[chosen_b]))
    held = {int(document): 0 for document in documents}
    for document, count in zip(windows.document_b[chosen_b], windows.text_bs[chosen_b].sum(axis=1), strict=True):
        held[int(document)] += int(count)
    enough = int(np.searchsorted(np.cumsum([held[int(document)] for document in documents]), tokens)) + 1
    return chosen_b[np.isin(windows.document_b[chosen_b], documents[:enough])]


def _tensors(sae: SparseAutoencoder) -> dict[str, Tensor]:
    found = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    return found | ({"threshold": sae.threshold} if sae.threshold is not None else {})


def read_model(name: str) -> Any:
    """A model's weights, in float32."""
    from exemplar_partitioning.demo.gguf import read_gguf
    from exemplar_partitioning.models.load import load_model

    if name.endswith(".gguf"):
        return read_gguf(Path(name))[0].eval().requires_grad_(False)
    return load_model(name, dtype="float32").model.requires_grad_(False)


if __name__ == "__main__":
    main()
