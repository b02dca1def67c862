"""Several builds of one command: what a sweep, or a row of models, asks for, in folders named by the values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import EPError

if TYPE_CHECKING:
    from ..building.options import BuildRequest
    from ..models.loaded import LoadedModel

_SAMPLE = 20  # documents that models are to cut alike
_CHARACTERS = 4000  # of each


def build_each(context: typer.Context, runs: list[tuple[str, dict[str, Any]]]) -> None:
    """Build one after another into folders of OUT, and write in runs.json which there are, in order.

    Raises:
        EPError: two runs of one name, or models that cut text into other tokens.
    """
    from ..files import to_json, write_new
    from ..folder.listing import RUNS

    callback: Any = context.command.callback
    if len(runs) == 1:  # named with --model: a run like any other
        context.params |= runs[0][1]
        context.invoke(callback, **context.params)
        return
    out = Path(context.params.get("out") or "dictionaries/runs")
    names = [name for name, _ in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EPError(f"two runs would be called {twice[0]}; name folders that end differently")
    if present := [out / name for name, params in runs if not params["resume"] and (out / name).exists()]:
        raise EPError(f"{present[0]} exists already; go on with --resume, or choose another folder with --out")
    for name, params in runs:
        _check(out / name, params)
    _check_same_tokens([params for _, params in runs])
    for number, (name, params) in enumerate(runs, 1):
        typer.secho(f"{number} of {len(runs)}: {name}", bold=True, err=True)
        context.params |= params | {"out": out / name}
        resume = params["resume"] and (out / name).exists()
        context.invoke(callback, **{**context.params, "resume": resume})
        done = [{"folder": each, "options": _changed(params, runs)} for each, params in runs[:number]]
        write_new(out / RUNS, to_json({"runs": done}))
    if not context.params.get("as_json"):
        typer.echo(f"\n{len(runs)} builds in {out}; regions along them: ep match {out} --row --percentile NUMBER")


def tell_estimate(loaded: LoadedModel, text: list[Path] | None, asked: BuildRequest, *, as_json: bool) -> None:
    """Say what a build would cost."""
    from ..building.estimate import estimate
    from ..demo.corpus import documents_of
    from ..models.sites import resolve_sites
    from .output import print_json
    from .terminal import counted

    source = documents_of(text, field=asked.field, strict=asked.strict, mask=asked.mask, limit=asked.documents)
    sites = resolve_sites(asked.sites or f"resid_post.{loaded.architecture.n_layers // 2}", loaded.architecture)
    cost = estimate(loaded, source, sites, asked)
    if as_json:
        print_json(cost.as_json())
        return
    parts = (
        f"{cost.extraction:,.0f} s the model, {cost.calibration:,.0f} calibration, {cost.clustering:,.0f} clustering"
    )
    typer.echo(
        f"{cost.tokens:,} tokens at {counted(len(sites), 'site')}: about {_duration(cost.seconds)} on this machine "
        f"({parts}); less if dictionaries saturate before.\n"
        f"disk: {_size(cost.disk)}, and {_size(cost.disk_meanwhile)} more while it runs; "
        f"memory: {_size(cost.memory)}; model: {_size(cost.weights)}\n"
        f"measured on {cost.measured:,} tokens at {cost.tokens_per_second:,.0f} tokens/s; regions (about "
        f"{cost.regions:,} in all) and time beyond them are drawn out, not known"
    )


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _changed(params: dict[str, Any], runs: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The options of a run that differ between runs."""
    return {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in params.items()
        if any(other[key] != value for _, other in runs)
    }


def _check(out: Path, params: dict[str, Any]) -> None:
    """Refuse what can be before the first run, which may take hours."""
    from ..building.options import BuildRequest
    from ..building.run import check_request
    from ..models.load import outline

    if not params["activations"]:
        asked = {name: params[name] for name in BuildRequest.model_fields if name in params}
        request = BuildRequest(**asked | {"out": out, "keep_activations": "none"})
        origin = {name: params[name] for name in ("revision", "trust_remote_code")}
        check_request(request, outline(params["model"], **origin))


def _check_same_tokens(runs: list[dict[str, Any]]) -> None:
    models = list(dict.fromkeys(params["model"] for params in runs))
    if len(models) < 2 or runs[0]["activations"] or runs[0]["tokenizer"]:
        return
    from itertools import islice

    from ..demo.corpus import documents_of
    from ..models.source import find
    from .options import sources

    source = documents_of(sources(runs[0]["text"]), field=runs[0]["field"])
    texts = [document.text[:_CHARACTERS] for document in islice(source, _SAMPLE)]
    cut = {}
    for model in models:
        tokenizer = find(model, runs[0]["revision"], runs[0]["trust_remote_code"]).tokenizer
        cut[model] = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    for model in models[1:]:
        if cut[model] != cut[models[0]]:
            raise EPError(
                f"{models[0]} and {model} cut {source.name} into different tokens, so their dictionaries would not be "
                "of the same ones; build them one by one, or give one --tokenizer for all"
            )
