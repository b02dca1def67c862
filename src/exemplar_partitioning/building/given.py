"""Builds on activations that were given: no model runs, and what is not known of theirs is recorded so."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..activations.given import At, Given, given, tokens_of
from ..core.calibration import check_percentiles
from ..folder.schema import ModelRecord, SiteRecord
from ..models.identity import tokenizer_hash
from ..models.load import pick_device, search_device
from ..models.sites import named_site
from .growing import decided
from .options import BuildOptions, Following, GivenRequest
from .run import BuildJob, BuildRun, Crew, finished
from .settings import BuildResult, BuildSettings, GivenRecord
from .workspace import Workspace
from .write import Places


def build_given(x: Any, asked: GivenRequest) -> BuildResult:
    """Build dictionaries of activations; `api.build_from_activations` tells of all that can be asked.

    Raises:
        EPError: activations or token ids that do not fit.
        DataError: files that are damaged, or of several widths.
    """
    source = given(x, tokens_of(asked.tokens, asked.tokenizer, asked.context_size), field=asked.field)
    named = source.array if named_site(source.array) is not None else "activations"
    site = SiteRecord.named(asked.site or named, source.width)
    settings = _settings(source, asked, site)
    with Workspace(Path(asked.out), settings, resume=asked.resume) as workspace:
        if workspace.finished:
            return finished(workspace.out)
        job = BuildJob(
            chunks=lambda: source.chunks(settings.max_tokens),
            source=source.name,
            places=Places({site.name: site}, source.tokens.tokenizer, source.tokens.bos_id),
            settings=settings,
            workspace=workspace,
            device=search_device(pick_device(asked.device)),
        )
        run = BuildRun.begin(job, asked)
        extraction = At([site.name], run.progress)
        crew = Crew(extraction, lambda chunks, growing: decided(extraction(chunks), growing, job.device))
        return run.through(nullcontext(crew))


def _settings(source: Given, asked: GivenRequest, site: SiteRecord) -> BuildSettings:
    tokenizer = source.tokens.tokenizer
    options = {name: getattr(asked, name) for name in Following.model_fields}
    options["calibration_sample"] = max(asked.calibration_sample, asked.calibration_batch)
    context = source.context_size
    return BuildSettings(
        **{name: field.default for name, field in BuildOptions.model_fields.items()} | options,
        model=ModelRecord.unknown(
            source.width,
            source.dtype,
            id=asked.model,
            vocab_size=None if tokenizer is None else len(tokenizer),
            tokenizer_hash=None if tokenizer is None else tokenizer_hash(tokenizer),
        ),
        given=GivenRecord(context_size=context, bos_id=source.tokens.bos_id),
        text=source.name,
        sites=(site.name,),
        percentiles=check_percentiles(asked.percentiles),
        device=asked.device,
        threads=1,
    )
