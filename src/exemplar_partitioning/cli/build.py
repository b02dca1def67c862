"""`ep build`: a model and some text in, a folder of dictionaries out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..building.options import DEFAULT_MODEL, BuildRequest, GivenRequest
from ..text.windowing import Windowing
from . import options
from .asking import asking
from .config import Config, PrintConfig, said, sweep
from .config import print_config as print_options
from .interrupts import stop_on_interrupt
from .runs import build_each, tell_estimate

if TYPE_CHECKING:
    from ..building.settings import BuildResult
    from ..models.loaded import LoadedModel

_STREAM = "How text becomes a stream"
_MACHINE = "Model and machine"
_GIVEN = "Activations that you have"
_CALIBRATION = ("calibration_sample", "calibration_batch")
_OF_GIVEN = frozenset(GivenRequest.model_fields) | {"sites"}  # options that mean something without a model


@asking(
    BuildRequest,
    but=("out", "on_event", "stop", "ray", "workers", "keep_activations", "annotate", "progress"),
    given={
        "sites": {"spelled": "--site", "kind": str | None, "show_default": "the residual stream half way up"},
        "percentiles": {"spelled": "--percentile", "parser": options.percentiles, "metavar": "NUMBERS", "kind": Any}
        | {"default": ",".join(f"{p:g}" for p in BuildRequest.model_fields["percentiles"].default)},
        "prepend_bos": {"spelled": "--bos/--no-bos"},
        "roles": {"kind": str, "parser": options.names, "metavar": "NAMES", "default": ""},
    },
    counts=("max_tokens", "saturation_window", *_CALIBRATION),
    panels={
        _STREAM: (*Windowing.model_fields, *("field", "strict", "saturation_window"), *_CALIBRATION),
        _MACHINE: ("checkpoint_seconds", "dtype", "device", "batch_size"),
    },
)
def build(
    model: Annotated[
        str,
        typer.Argument(
            help="Packaged model (smollm2-135m-instruct, gemma-3-270m, qwen2.5-coder-0.5b-instruct), hub id or path."
        ),
    ] = DEFAULT_MODEL,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders or globs (.txt .md .jsonl .json .csv .tsv .parquet .arrow, also .gz .zst "
            ".bz2), or hf:owner/name:subset. Without any: a packaged corpus of news, reviews, code, papers and more.",
            show_default=False,
        ),
    ] = None,
    *,
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A model; given again, a row of them, each built on the same text, in OUT/<model>. Every argument is "
            "text then. Of activations, the name of the model that gave them.",
            rich_help_panel=_MACHINE,
            show_default=False,
        ),
    ] = None,
    activations: Annotated[
        list[Path] | None,
        typer.Option(
            help="Build on activations that you have, without a model: .npy .npz .pt .safetensors .parquet .arrow, or "
            "folders of these, as `datasets` and SAELens save them. Further paths may follow.",
            rich_help_panel=_GIVEN,
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        list[Path] | None,
        typer.Option(help="Their token ids, one each, in such files too.", rich_help_panel=_GIVEN, show_default=False),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="In place of the model's own, or whose the token ids are: name or path.",
            rich_help_panel=_MACHINE,
            show_default=False,
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            help="Adapter of PEFT to put on the model: its folder.", rich_help_panel=_MACHINE, show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.", show_default="dictionaries/ and the model's name")
    ] = None,
    annotate: Annotated[
        bool,
        typer.Option(
            help="Gather evidence for the regions, from the activations that calibrate: the model does not run again."
        ),
    ] = True,
    keep_activations: Annotated[
        bool,
        typer.Option(
            "--keep-activations",
            help="Leave all activations in OUT/activations, where annotating the same text reads them.",
        ),
    ] = False,
    config: Config = None,
    print_config: PrintConfig = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Run parts for about a minute, say what the whole would cost, and stop.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Have tensorboard, wandb or trackio follow the build, in OUT-tracking.", show_default=False),
    ] = None,
    as_json: options.JsonLines = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub model.", rich_help_panel=_MACHINE)
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run Python code that comes with the model; read it first. Recorded in the dictionaries.",
            rich_help_panel=_MACHINE,
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="all", rich_help_panel=_MACHINE)
    ] = None,
    ray: options.Ray = None,
    workers: options.Workers = None,
    **asked: Any,
) -> None:
    """Build dictionaries of a model's activations on some text.

    One pass over the text serves all sites and percentiles. Interrupted builds go on with --resume and end
    in the same bytes.

    Exit codes: 2 wrong input, 3 damaged file, 4 no space, network or device, 130 interrupted.
    """
    if print_config:
        print_options(context)
        return
    if several := sweep(context, None if activations else models):
        build_each(context, several)
        return
    options.workers(ray, workers)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    named = activations[0].stem if activations else re.sub(r"[^\w.-]+", "-", Path(model).name.lower()).strip("-.")
    folder = out or Path("dictionaries") / named
    pool: dict[str, Any] = {} if ray is None else {"ray": ray, "workers": workers}
    if activations:
        unread = [name for name in asked if name not in _OF_GIVEN and said(context, name)]
        if unread := [*unread, *(["estimate"] if estimate else [])]:
            which = ", ".join(f"--{name.replace('_', '-')}" for name in unread)
            raise typer.BadParameter(f"{which}: no model runs and no text is read with --activations")
        paths = [*activations, *([Path(model)] if said(context, "model") else []), *map(Path, text or [])]
        known: dict[str, Any] = {"tokens": tokens, "tokenizer": tokenizer, "annotate": annotate}
        if theirs := models or ([] if said(context, "model") or model == DEFAULT_MODEL else [model]):
            known["model"] = theirs[-1]
        chosen = {name: value for name, value in asked.items() if said(context, name, or_in_file=True)}
        with _followed(folder, track, as_json) as news:
            result = _given(folder, paths, chosen, **known, **news)
    else:
        if tokens:
            raise typer.BadParameter("--tokens belong to --activations")
        asked["keep_activations"] = "all" if keep_activations else "none"
        origin: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        put_on: dict[str, Any] = {"tokenizer": tokenizer, "adapter": adapter, "origin": origin}
        request = BuildRequest(out=folder, **pool, **asked)
        from .. import api

        loaded, source, size = _checked(model, text, request, **put_on)
        if estimate:
            tell_estimate(loaded, source, request, as_json=as_json)
            return
        with _followed(folder, track, as_json, f"Building {model} into {folder}", size) as news:
            result = api.build(loaded, source, out=folder, annotate=annotate, **pool, **news, **asked)
    if not as_json:
        _print_dictionaries(result)


def _checked(
    model: str, text: list[str] | None, request: BuildRequest, *, origin: dict[str, Any], **put_on: Any
) -> tuple[LoadedModel, list[Path] | None, int | None]:
    """The model, and the text with its bytes; what can be refused is, before the weights are read."""
    from ..building.run import check_request
    from ..demo.corpus import documents_of
    from ..models.load import load_model, outline

    source = options.sources(text)
    size = documents_of(source, field=request.field).size
    check_request(request, outline(model, **origin))
    return load_model(model, dtype=request.dtype, device=request.device, **put_on, **origin), source, size


@contextmanager
def _followed(
    folder: Path, track: Sequence[str] | None, as_json: bool, title: str = "", size: int | None = None
) -> Iterator[dict[str, Any]]:
    """The display of a build, trackers, and what stops it."""
    from .display import display

    trackers: list[Any] = []
    if track:
        from ..building.tracking import tracker

        trackers = [tracker(name, folder) for name in track]
    with display(as_json, title, size) as on_event, stop_on_interrupt() as stop:

        def tell(event: Any) -> None:
            for told in (on_event, *trackers):
                told(event)

        yield {"on_event": tell, "stop": stop}


def _given(folder: Path, paths: list[Path], asked: dict[str, Any], **known: Any) -> BuildResult:
    """Build on activations that are there."""
    from .. import api

    fitting: dict[str, Any] = {
        name: value for name, value in asked.items() if name in GivenRequest.model_fields and value is not None
    }
    if (site := asked.get("sites")) is not None:
        fitting["site"] = site
    return api.build_from_activations(paths, out=folder, **known, **fitting)


def _print_dictionaries(result: BuildResult) -> None:

    from .display import dictionaries_table, unmixed
    from .terminal import counted

    console = Console()
    took = f" from {result.tokens:,} tokens in {result.seconds:,.0f} s" if result.tokens else ", complete already"
    console.print(f"\n[bold]{counted(len(result.dictionaries), 'dictionary')}[/]{took}", highlight=False)
    console.print(dictionaries_table(result.dictionaries))
    if warning := unmixed(result.dictionaries):
        console.print(warning, markup=False, highlight=False, soft_wrap=True)
    if result.documents_skipped:
        reasons = ", ".join(f"{count:,} {why}" for why, count in sorted(result.documents_skipped.items()))
        console.print(f"Documents skipped: {reasons}", markup=False, highlight=False)
    example = result.dictionaries[len(result.dictionaries) // 2]
    chosen = f"--site {example.site} --percentile {example.percentile:g}"
    console.print(
        f"\nNext, look at them:\n"
        f"  ep explore {result.path}\n"
        f"  ep show {result.path}\n"
        f"  ep show {result.path} {chosen} --region 0\n"
        f"or use them in Python:\n"
        f"  import exemplar_partitioning as ep\n"
        f"  d = ep.load({json.dumps(str(result.path))}, site={json.dumps(example.site)}, "
        f"percentile={example.percentile:g})\n"
        "  ids, distances = d.assign(activations)   # [n, d_model]",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
