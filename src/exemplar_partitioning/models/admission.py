"""A model is admitted by experiment: what the rest of the package assumes of it is tested on a few fixed tokens.

No flag, class or parameter name decides; docs/models.md says what each refusal means.

Shape suffixes: s positions of a window, n activations, d model width, v vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import EPError
from ..quiet import first_line
from .architecture import Architecture
from .capture import Extractor, input_device, undisturbed
from .identity import special_token_ids
from .lens import lens
from .loaded import Admission, LoadedModel
from .sites import Site

_SHORT, _LONG = 8, 12  # tokens of the windows that every model is tested on


def admit(loaded: LoadedModel, *, remote_code: bool = False) -> Admission:
    """Test that activations depend on nothing but the tokens up to theirs, and whether the logit lens is true.

    Three windows share a batch: a short one, the same with another last token, and a longer one. The short one's
    activations must be, at every block, those that it has alone; and all but the last of the second one's too.

    Raises:
        EPError: the model cannot run on token ids alone, is not causal, or mixes the windows of a batch.
    """
    refused = None
    for seed in (0, 1):
        # Where experts are chosen, rounding alone can tip the scales: what fails on other tokens too is no accident.
        windows = _windows(loaded, seed)
        stream, logits_v = _alone(loaded, windows[0])
        refused = _dependence(loaded, windows, {Site(layer, "resid_post"): x_sd for layer, x_sd in stream.items()})
        if refused is None:
            last_nd = stream[max(stream)]
            return Admission(
                lens=_lens(loaded, stream, logits_v),
                head=logits_v is not None,
                remote_code=remote_code,
                probe=_projections([stream[sorted(stream)[len(stream) // 2]], last_nd]),
            )
    assert refused is not None
    raise refused


def check_length(architecture: Architecture, context_size: int, *, bos: bool = True) -> None:
    """Raise EPError where windows of so many tokens of text are longer than the model takes."""
    limit = architecture.max_length
    if limit is not None and context_size + bos > limit:
        raise EPError(
            f"a context size of {context_size:,} tokens{' and a BOS' if bos else ''} is more than "
            f"{architecture.class_name} takes, which is {limit:,}; choose at most {limit - bos:,}"
        )


def check_context(
    loaded: LoadedModel, context_size: int, sites: Sequence[Site] = (), *, bos: bool = True
) -> dict[Site, int]:
    """Test, for windows as long as they will be, that batch-mates do not change each other's activations.

    Args:
        loaded: the model.
        context_size: tokens of text in a window.
        sites: where activations will be taken. Outside of the stream, which every model is tested on, they are tested
            for what those of the stream were: that they depend on nothing but the tokens up to theirs.
        bos: whether one begins every window.

    Returns:
        Widths of the sites.

    Raises:
        EPError: such windows are longer than the model takes, or depend on what is in their batch; or a site does, or
            on tokens that come later, or it holds no activation a token.
    """
    check_length(loaded.architecture, context_size, bos=bos)
    others = [site for site in sites if not site.in_stream]
    widths = Extractor(loaded.model, sites).widths if sites else {}
    if others:
        windows = _windows(loaded, 0)
        alone = Extractor(loaded.model, others).extract(windows[:1])
        if (refused := _dependence(loaded, windows, alone)) is not None:
            raise refused
    longest = context_size + bos
    if longest <= _LONG:
        return widths
    rng = np.random.default_rng(0)
    windows = [rng.choice(_plain_ids(loaded), size=n) for n in (_SHORT, max(_SHORT, longest * 3 // 4), longest)]
    last = Site(loaded.architecture.n_layers - 1, "resid_post")
    extractor = Extractor(loaded.model, [last, *others], batch_size=len(windows))
    together = extractor.extract(windows)
    start = 0
    for window in windows[:2]:  # in this order: a short window sets back what a long one may have left behind
        for site, alone_nd in extractor.extract([window]).items():
            gap = _gap(together[site][start : start + len(window)], alone_nd, loaded.model.dtype)
            if not gap <= _tolerance(loaded.model.dtype):
                raise EPError(
                    f"activations of {loaded.architecture.class_name} at {site} in a window of {len(window):,} tokens "
                    f"move by {gap:.1%} when a window of {longest:,} tokens shares its batch, or ran before it: its "
                    f"positions depend on the longest. Choose a context size of at most "
                    f"{(loaded.architecture.regime_length or _LONG) - bos:,}"
                )
        start += len(window)
    return widths


def same_probe(a: Sequence[float], b: Sequence[float], dtype: str) -> bool:
    """Whether the activations behind two probes differ by no more than other hardware's rounding."""
    gaps = np.abs(np.subtract(a, b)) if len(a) == len(b) else np.array([np.inf])
    return bool(np.median(gaps) <= 2 * _tolerance(getattr(torch, dtype)))


def _plain_ids(loaded: LoadedModel) -> np.ndarray:
    """Ids of ordinary tokens; those of structure, images or padding mean something else to some models."""
    known = min(loaded.architecture.vocab_size, max(len(loaded.tokenizer), 1))
    special = set(special_token_ids(loaded.tokenizer))
    for config in (loaded.model.config, loaded.model.config.get_text_config()):
        stated = [value for name, value in config.to_dict().items() if "token" in name]
        special |= {value for value in stated if isinstance(value, int)}
    plain = np.setdiff1d(np.arange(known, dtype=np.int64), list(special))
    return plain if len(plain) else np.zeros(1, dtype=np.int64)


def _windows(loaded: LoadedModel, seed: int) -> list[np.ndarray]:
    """A short window, the same with another last token, and a longer one of other tokens if the model takes it."""
    limit = loaded.architecture.max_length or _LONG
    short, long = min(_SHORT, limit), min(_LONG, limit, loaded.architecture.regime_length or _LONG)
    plain = _plain_ids(loaded)
    ids_s = np.random.default_rng(seed).choice(plain, size=short + long)
    changed_s = ids_s[:short].copy()
    changed_s[-1] = plain[(np.searchsorted(plain, changed_s[-1]) + len(plain) // 2) % len(plain)]
    return [ids_s[:short], changed_s, ids_s[short:]]


def _alone(loaded: LoadedModel, ids_s: np.ndarray) -> tuple[dict[int, Tensor], Tensor | None]:
    """One window, as anyone would run it: the stream after every block that runs, and the last logits if any."""
    model, architecture = loaded.model, loaded.architecture
    shape = (1, len(ids_s), architecture.d_model)
    stream: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden = output[0] if type(output) in (tuple, list) else output
            if isinstance(hidden, Tensor) and hidden.shape == shape:
                stream[layer] = hidden[0].detach().to("cpu", torch.float32, copy=True)

        return after

    handles = [block.register_forward_hook(keep(layer)) for layer, block in enumerate(architecture.blocks)]
    ids_bs = torch.from_numpy(ids_s)[None].to(input_device(model))
    try:
        with torch.inference_mode(), undisturbed(model), _on_ids_alone(architecture):
            output = model(input_ids=ids_bs, use_cache=False, **_last_logits(model))
    finally:
        for handle in handles:
            handle.remove()
    if not stream:
        raise EPError(
            f"no block of {architecture.class_name} ({architecture.path}) puts out a residual stream of shape "
            f"{list(shape)} (windows, tokens, d_model); this architecture is not supported"
        )
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[-1] < architecture.vocab_size // 2:
        return stream, None  # no head, or one that classifies
    return stream, logits[0, -1].detach().float().cpu()


@contextmanager
def _on_ids_alone(architecture: Architecture) -> Iterator[None]:
    try:
        yield
    except EPError:
        raise
    except Exception as error:  # whatever a model says that wants more than ids, or other numbers of them
        raise EPError(
            f"{architecture.class_name} does not run on token ids alone: {type(error).__name__}: {first_line(error)}. "
            "Expected a causal language model of transformers"
        ) from error


def _last_logits(model: nn.Module) -> dict[str, int]:
    """What asks a model for logits of the last token alone, if it can be asked."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(type(model).forward).parameters else {}


def _dependence(loaded: LoadedModel, windows: list[np.ndarray], alone: dict[Site, Tensor]) -> EPError | None:
    extractor = Extractor(loaded.model, list(alone), batch_size=len(windows))
    with _on_ids_alone(loaded.architecture):
        together = extractor.extract(windows)
    n, dtype, name = len(windows[0]), loaded.model.dtype, loaded.architecture.class_name
    for site, x_nd in together.items():
        if n > 1 and not (gap := _gap(x_nd[: n - 1], x_nd[n : 2 * n - 1], torch.float32)) <= _tolerance(dtype):
            return EPError(
                f"{name} does not attend causally: when the last of {n} tokens changes, {site} of those before it "
                f"moves by {gap:.1%}. Expected a decoder-only language model, because an activation must not depend on "
                "the tokens after it; some encoders become one with is_decoder=True in their configuration"
            )
    for site, x_nd in together.items():
        if not (gap := _gap(x_nd[:n], alone[site], dtype)) <= _tolerance(dtype):
            return EPError(
                f"activations of {name} depend on what else is in the batch: {site} of a window of {n} tokens moves by "
                f"{gap:.1%} beside one of {len(windows[2])}. Expected a model that reads every window by itself"
            )
    return None


def _tolerance(dtype: torch.dtype) -> float:
    """How far rounding in other shapes of batch may move an activation, as a share of its norm."""
    return max(1e-3, 16 * torch.finfo(dtype).eps)


def _gap(x_nd: Float[Tensor, "n d"], y_nd: Float[Tensor, "n d"], dtype: torch.dtype) -> float:
    """Relative distance of rows: the largest; in low precision the median, as experts may then be chosen anew."""
    finite_n = torch.isfinite(x_nd).all(dim=1) & torch.isfinite(y_nd).all(dim=1)
    if not torch.equal(finite_n, torch.isfinite(x_nd).all(dim=1)):
        return float("inf")
    x_nd, y_nd = x_nd[finite_n].double(), y_nd[finite_n].double()
    if not len(x_nd):
        return 0.0
    gaps_n = (x_nd - y_nd).norm(dim=1) / y_nd.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(gaps_n.max() if dtype == torch.float32 else gaps_n.median())


def _lens(loaded: LoadedModel, stream: dict[int, Tensor], logits_v: Tensor | None) -> str | None:
    """Why the logit lens of an activation of the last block is not what the model itself says there; None if it is."""
    if logits_v is None:
        return f"{loaded.architecture.class_name} has no language-model head"
    last = loaded.architecture.n_layers - 1
    if last not in stream:
        return f"the last block of {loaded.architecture.class_name} does not run on text alone"
    try:
        lens_v = next(lens(loaded, stream[last][-1:]))[0]
    except Exception as error:  # whatever comes of a forward pass with another stream
        return f"what follows the last block does not run by itself ({first_line(error)})"
    expected, got = logits_v - logits_v.mean(), lens_v - lens_v.mean()
    gap = float((got - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float32).tiny))
    if gap <= _tolerance(loaded.model.dtype):
        return None
    return (
        f"the logits of its last block's output are not those that the model gives there (off by {gap:.1%}): more than "
        "that output enters them"
    )


def _projections(streams: Sequence[Float[Tensor, "n d"]]) -> tuple[float, ...]:
    """Each activation's direction along one of random signs: numbers about 1, that move as much as it does."""
    values = []
    for x_nd in streams:
        signs_d = (torch.arange(x_nd.shape[1]) * 2_654_435_761 >> 9 & 1) * 2.0 - 1.0
        unit_nd = x_nd.double() / x_nd.double().norm(dim=1, keepdim=True)
        values += torch.nan_to_num(unit_nd @ signs_d.double(), 0.0, 0.0, 0.0).tolist()
    return tuple(round(value, 4) for value in values)
