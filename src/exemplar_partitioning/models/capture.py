"""Windows of token ids to activations at any number of sites, in one forward pass stopped after the last.

Shape suffixes: b windows in a batch, s positions (padded), d width at a site, n activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from ..errors import EPError
from .architecture import Architecture, transformers_model
from .hooks import at
from .sites import POINTS, Site, resolve_sites

_WINDOWS = 128  # extracted at once where only some tokens are kept
_PAD_ID = 0  # any valid id: nothing before the padding can see it


class StopForward(Exception):
    """Raised by the hook capturing the last site, to leave the forward pass; never leaves this module."""


class Extractor:
    """Activations of a causal language model at fixed sites.

    Windows of about equal length share a batch and are padded on the right. Causal attention makes a position
    blind to what follows it, so no attention mask is needed; without one, transformers keeps the fast
    attention kernels. Batches are a function of the windows alone: the same windows in one call give the same
    bytes. Other batches may differ in the last bits, as a matrix product's rounding depends on its shape.
    """

    def __init__(self, model: Any, sites: Sequence[Site], *, batch_size: int = 16) -> None:
        """Prepare hooks; nothing runs yet.

        Args:
            model: a causal language model object of transformers, or one that holds such a model (architecture.py).
            sites: what to capture; at least one.
            batch_size: windows in one forward pass.

        Raises:
            EPError: unknown architecture, no site, a site the model does not have, modules that do not run once in
                a forward pass or do not hold one activation a token; or, for contributions of attention and MLP,
                blocks that do anything other than add these two to the stream.
        """
        if batch_size < 1:
            raise EPError(f"batch_size is {batch_size}; expected at least 1.")
        self.model = model = transformers_model(model)
        self.architecture = Architecture.of(model)
        self.sites = resolve_sites([str(site) for site in sites], self.architecture)
        self.batch_size = batch_size
        self.widths = dict.fromkeys(self.sites, self.architecture.d_model) | _widths(
            model, self.architecture, [site for site in self.sites if not site.in_stream]
        )
        """Of the activations at each site."""
        parts = ("attn_out_post", "resid_mid", "mlp_out_post")
        if halves := sorted({site.layer for site in self.sites if site.point in parts}):
            _check_contributions(model, self.architecture, halves)
        for site in self.sites:
            if site.point == "resid_mid":
                _check_between(model, self.architecture, site)

    def extract(
        self, windows: Sequence[np.ndarray], on_batch: Callable[[int], None] | None = None
    ) -> dict[Site, torch.Tensor]:
        """Run the model over windows.

        Args:
            windows: 1-D integer arrays of token ids, not empty, of any lengths; a BOS is the caller's to add.
            on_batch: told the number of (true) tokens of each batch once it is done; may raise to interrupt.

        Returns:
            For each site a float32 tensor [n, d] on the CPU, d its width, n the sum of the lengths: rows in the
            order of the windows, then of positions.

        Raises:
            EPError: a window is empty, too long or not one-dimensional; a token id is outside the
                vocabulary; the model did not reach a site.
        """
        lengths = np.array([self._checked_length(window) for window in windows], dtype=np.int64)
        ends = np.cumsum(lengths)
        n = int(ends[-1]) if len(ends) else 0
        rows = {site: torch.empty((n, d), dtype=torch.float32) for site, d in self.widths.items()}
        device = input_device(self.model)
        with torch.inference_mode(), undisturbed(self.model):
            for batch in self._batches(lengths):
                tokens_bs = np.full((len(batch), lengths[batch].max()), _PAD_ID, dtype=np.int64)
                for row, index in enumerate(batch):
                    tokens_bs[row, : lengths[index]] = windows[index]

                def keep(site: Site, hidden_bsd: torch.Tensor, batch: np.ndarray = batch) -> None:
                    # One transfer in the model's own dtype; the copy below widens it to float32 (exactly).
                    hidden_bsd = hidden_bsd.to("cpu")
                    for row, index in enumerate(batch):
                        end, length = int(ends[index]), int(lengths[index])
                        rows[site][end - length : end].copy_(hidden_bsd[row, :length])

                _run(self.model, self.architecture, self.widths, torch.from_numpy(tokens_bs).to(device), keep)
                if on_batch is not None:
                    on_batch(int(lengths[batch].sum()))
        return rows

    def _batches(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Indices of windows to run together: of about equal length, and all on the same side of the regime's end."""
        order = np.argsort(lengths, kind="stable")
        regime = self.architecture.regime_length
        cut = len(order) if regime is None else int(np.searchsorted(lengths[order], regime, side="right"))
        for part in (order[:cut], order[cut:]):
            for first in range(0, len(part), self.batch_size):
                yield part[first : first + self.batch_size]

    def _checked_length(self, window: np.ndarray) -> int:
        if window.ndim != 1 or window.dtype.kind not in "iu" or len(window) == 0:
            raise EPError(
                f"a window is an array of shape {window.shape} and dtype {window.dtype}; expected a 1-D, "
                "non-empty array of integer token ids."
            )
        limit = self.architecture.max_length
        if limit is not None and len(window) > limit:
            raise EPError(
                f"a window has {len(window)} tokens, but {self.architecture.class_name} takes at most "
                f"{limit}; choose shorter windows."
            )
        low, high = int(window.min()), int(window.max())
        if low < 0 or high >= self.architecture.vocab_size:
            raise EPError(
                f"token id {low if low < 0 else high} is outside the model's embedding (0 to "
                f"{self.architecture.vocab_size - 1}); was the text tokenized for another model?"
            )
        return len(window)


def _run(
    model: Any,
    architecture: Architecture,
    widths: Mapping[Site, int],
    tokens_bs: torch.Tensor,
    keep: Callable[[Site, torch.Tensor], None],
) -> None:
    """One forward pass; `keep` gets each site's activations [b, s, d] while they are current."""
    waiting = set(widths)

    def arrived(site: Site, hidden_bsd: torch.Tensor) -> None:
        shape = (*tokens_bs.shape, widths[site])
        if hidden_bsd.shape != shape:
            raise EPError(
                f"{site} of {architecture.class_name} has shape {tuple(hidden_bsd.shape)}, expected "
                f"{tuple(shape)} (windows, positions, width); this architecture is not supported at this site."
            )
        keep(site, hidden_bsd)
        waiting.discard(site)
        if not waiting:
            raise StopForward

    with ExitStack() as stack:
        for site in widths:
            stack.enter_context(at(architecture, site, partial(arrived, site)))
        try:
            model(input_ids=tokens_bs, use_cache=False)
        except StopForward:
            return
    raise _never_reached(architecture, waiting)


def _never_reached(architecture: Architecture, sites: Iterable[Site]) -> EPError:
    return EPError(
        f"the forward pass of {architecture.class_name} never reached {', '.join(map(str, sorted(sites)))}: its "
        "modules exist but did not run. Choose other sites."
    )


def _widths(model: Any, architecture: Architecture, sites: Sequence[Site]) -> dict[Site, int]:
    """Widths at sites outside the stream, learnt from a forward pass, in which each must come by exactly once."""
    passed: dict[Site, list[int]] = {site: [] for site in sites}
    if not sites:
        return {}
    device = input_device(model)
    tokens_bs = torch.arange(14, device=device).view(2, 7) % architecture.vocab_size
    with torch.inference_mode(), undisturbed(model), ExitStack() as stack:
        for site, widths in passed.items():
            stack.enter_context(at(architecture, site, lambda x_bsd, widths=widths: widths.append(x_bsd.shape[-1])))
        model(input_ids=tokens_bs, use_cache=False)
    if missed := [site for site, widths in passed.items() if not widths]:
        raise _never_reached(architecture, missed)
    for site, widths in passed.items():
        if len(widths) > 1:
            raise EPError(
                f"{site} of {architecture.class_name} is passed {len(widths)} times in a forward pass, so a token has "
                "several activations there. Choose a module that runs once, such as one inside a block"
            )
    return {site: widths[0] for site, widths in passed.items()}


def extract_rows(
    model: Any, sites: Sequence[Site], windows: Sequence[np.ndarray], rows: Sequence[np.ndarray]
) -> dict[Site, Float32[np.ndarray, "n d"]]:
    """Activations at some tokens of each window, in order, holding those of a part of the windows at a time."""
    extractor = Extractor(model, sites)
    collected: dict[Site, list[torch.Tensor]] = {site: [] for site in extractor.sites}
    for start in range(0, len(windows), _WINDOWS):
        part = windows[start : start + _WINDOWS]
        starts = np.cumsum([0] + [len(window) for window in part])
        wanted = np.concatenate([s + at for s, at in zip(starts[:-1], rows[start : start + _WINDOWS], strict=True)])
        for site, x_nd in extractor.extract(part).items():
            collected[site].append(x_nd[torch.from_numpy(wanted.astype(np.int64))])
    return {site: torch.cat(parts).numpy() for site, parts in collected.items()}


def _check_contributions(model: Any, architecture: Architecture, layers: Sequence[int]) -> None:
    """Refuse blocks for which before + attention + MLP is not after, on a few tokens.

    Some architectures scale what they add, or hand the stream through the submodule; their submodules'
    outputs would be captured without complaint and mean something else.
    """
    got = _on_few_tokens(model, architecture, [Site(layer, point) for layer in layers for point in POINTS])
    for layer in layers:
        before, attention, mlp, after = (got[Site(layer, point)] for point in POINTS)
        gap_bs = (before.double() + attention + mlp - after).norm(dim=-1)
        added_bs = attention.double().norm(dim=-1) + mlp.double().norm(dim=-1)
        rounding_bs = 4 * torch.finfo(after.dtype).eps * (before.double().norm(dim=-1) + added_bs)
        if bool((gap_bs > 1e-3 * added_bs + rounding_bs).any()):
            raise EPError(
                f"in block {layer} of {architecture.class_name} the residual stream after the block is not the "
                "stream before it plus the outputs of attention and MLP, so what they add cannot be read off. "
                f"Use resid_pre.{layer} or resid_post.{layer}."
            )


def _check_between(model: Any, architecture: Architecture, site: Site) -> None:
    """Refuse a block whose MLP does not read what attention adds: then there is no stream between the two."""
    mlp = Site(site.layer, "mlp_out_post")
    usual = _on_few_tokens(model, architecture, [mlp])[mlp]
    with at(architecture, Site(site.layer, "attn_out_post"), torch.zeros_like):
        alone = _on_few_tokens(model, architecture, [mlp])[mlp]
    if torch.equal(usual, alone):
        raise EPError(
            f"block {site.layer} of {architecture.class_name} runs attention and MLP side by side, so there is no "
            f"{site} between them. Use resid_pre.{site.layer} or resid_post.{site.layer}"
        )


def _on_few_tokens(model: Any, architecture: Architecture, sites: Sequence[Site]) -> dict[Site, torch.Tensor]:
    """Activations [b, s, d] at sites of the stream."""
    got: dict[Site, torch.Tensor] = {}

    def keep(site: Site, x_bsd: torch.Tensor) -> None:
        got[site] = x_bsd.to("cpu", copy=True)

    device = input_device(model)
    tokens_bs = torch.arange(8, device=device)[None] % architecture.vocab_size
    with torch.inference_mode(), undisturbed(model):
        _run(model, architecture, dict.fromkeys(sites, architecture.d_model), tokens_bs, keep)
    return got


def input_device(model: Any) -> torch.device:
    """Where token ids go: to the embedding; to the CPU if its weights are kept elsewhere and brought when needed."""
    device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Forward passes in the model's own precision and without dropout, whatever is set around or on it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.autocast(input_device(model).type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True
