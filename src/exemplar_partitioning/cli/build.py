"""`ep build`: a model and some text in, a folder of dictionaries out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from . import options
from .interrupts import stop_on_interrupt

if TYPE_CHECKING:
    from ..building.settings import BuildResult

_STREAM = "How text becomes a stream"
_MACHINE = "Model and machine"
_ANNOTATED_TOKENS = 100_000


def build(
    model: Annotated[
        str,
        typer.Argument(
            help="Packaged model (smollm2-135m-instruct, gemma-3-270m, qwen2.5-coder-0.5b-instruct), hub id or path."
        ),
    ] = "smollm2-135m-instruct",
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders or globs (.txt .md .jsonl .json .csv .tsv .parquet .arrow, also .gz .zst "
            ".bz2), or hf:owner/name:subset. Without any: a packaged corpus of news, reviews, code, papers and more.",
            show_default=False,
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="Sites, separated by commas; globs are fine: resid_post.15,resid_post.2*. "
            "Points: resid_pre, resid_post, attn_out_post, mlp_out_post.",
            show_default="the residual stream half way up",
        ),
    ] = None,
    percentile: Annotated[
        str, typer.Option(help="Resolutions, separated by commas; each is a dictionary, small is fine.")
    ] = "1,2,4,8,10",
    max_tokens: Annotated[
        str, typer.Option(help="Budget in tokens of text, unless all dictionaries saturate before.")
    ] = "1_000_000",
    until_unseen: Annotated[
        float | None,
        typer.Option(
            help="Also stop a dictionary when the estimated unseen mass is this small, e.g. 1e-4.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="dictionaries/<model>")] = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="At least so long between checkpoints.", rich_help_panel=_MACHINE)
    ] = 60.0,
    annotate: Annotated[
        bool,
        typer.Option(help="Afterwards gather evidence for the regions on the first 100,000 tokens of the text."),
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the same command began.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON event per line instead of a display.")] = False,
    field: Annotated[str, typer.Option(help="Column or key that holds the text.", rich_help_panel=_STREAM)] = "text",
    context_size: Annotated[
        int, typer.Option(min=1, help="Tokens of text in a window.", rich_help_panel=_STREAM)
    ] = 128,
    bos: Annotated[
        bool,
        typer.Option("--bos/--no-bos", help="Begin every window with the BOS token.", rich_help_panel=_STREAM),
    ] = True,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Each document is a user's message, in the model's chat template.", rich_help_panel=_STREAM
        ),
    ] = False,
    positions: Annotated[
        str,
        typer.Option(
            help="Tokens that count: all, or the last of every window: with --chat, where the answer begins.",
            rich_help_panel=_STREAM,
        ),
    ] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffle of windows.", rich_help_panel=_STREAM)] = 0,
    saturation_window: Annotated[
        str,
        typer.Option(help="Activations without a new exemplar that end a dictionary.", rich_help_panel=_STREAM),
    ] = "16_384",
    calibration_sample: Annotated[
        str, typer.Option(help="Activations that calibrate, the first of the stream.", rich_help_panel=_STREAM)
    ] = "212_992",
    calibration_batch: Annotated[
        str,
        typer.Option(help="Activations among which distances are ranked.", rich_help_panel=_STREAM),
    ] = "16_384",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse unreadable text and activations that are not finite, instead of skipping and counting them.",
            rich_help_panel=_STREAM,
        ),
    ] = False,
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
    dtype: Annotated[
        str,
        typer.Option(
            help="auto, float32, bfloat16 or float16. auto: float32 on a CPU, the model's own on a GPU.",
            rich_help_panel=_MACHINE,
        ),
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or mps. auto: cuda where present.", rich_help_panel=_MACHINE)
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="all", rich_help_panel=_MACHINE)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in one forward pass.", rich_help_panel=_MACHINE)] = 16,
    ray: options.Ray = None,
    workers: options.Workers = None,
) -> None:
    """Build dictionaries of a model's activations on some text.

    One pass over the text serves all sites and percentiles. Interrupted builds go on with --resume and end
    in the same bytes.

    Exit codes: 2 wrong input, 3 damaged file, 4 no space, network or device, 130 interrupted.
    """
    tokens, window = options.count(max_tokens), options.count(saturation_window)
    batch, sample = options.count(calibration_batch), options.count(calibration_sample)
    percentiles = options.percentiles(percentile)
    options.workers(ray, workers)

    import torch

    from .. import api
    from ..folder import annotation
    from ..folder.dictionary import find
    from ..models.load import load_model
    from .annotate import Bar
    from .display import JsonLines, LiveDisplay

    if threads is not None:
        torch.set_num_threads(threads)
    folder = out or Path("dictionaries") / re.sub(r"[^\w.-]+", "-", Path(model).name.lower()).strip("-.")
    display = JsonLines() if as_json else LiveDisplay(model, folder)
    loaded = load_model(model, revision=revision, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    with display, stop_on_interrupt() as asked:
        result = api.build(
            loaded,
            [Path(source) for source in text] if text else None,
            out=folder,
            sites=site,
            percentiles=percentiles,
            max_tokens=tokens,
            until_unseen=until_unseen,
            saturation_window=window,
            calibration_batch=batch,
            calibration_sample=sample,
            context_size=context_size,
            prepend_bos=bos,
            chat=chat,
            positions=cast(Literal["all", "last"], positions),
            seed=seed,
            batch_size=batch_size,
            field=field,
            strict=strict,
            checkpoint_seconds=checkpoint_seconds,
            resume=resume,
            on_event=display,
            stop=asked,
            ray=ray,
            workers=workers,
        )
        if annotate and not all((found / annotation.FOLDER).is_dir() for found in find(folder)):
            api.annotate(
                folder,
                [Path(source) for source in text] if text else None,
                model=loaded,
                max_tokens=min(tokens, _ANNOTATED_TOKENS),
                field=field,
                on_event=JsonLines() if as_json else Bar(),
                stop=asked,
                ray=ray,
                workers=workers,
            )
    if not as_json:
        _say_what_is_there(result)


def _say_what_is_there(result: BuildResult) -> None:
    from rich.console import Console

    from .display import dictionaries_table

    console = Console()
    took = f" from {result.tokens:,} tokens in {result.seconds:,.0f} s" if result.tokens else ", complete already"
    console.print(f"\n[bold]{len(result.dictionaries)} dictionaries[/]{took}", highlight=False)
    console.print(dictionaries_table(result.dictionaries))
    if result.documents_skipped:
        said = ", ".join(f"{count:,} {why}" for why, count in sorted(result.documents_skipped.items()))
        console.print(f"Documents skipped: {said}", markup=False, highlight=False)
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
