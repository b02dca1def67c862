"""The front doors: where a folder or the hub, one process or a cluster is decided; everything below knows only one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol

from . import reading
from .annotating import run as annotating
from .annotating.options import AnnotateRequest
from .building import run as building
from .building.bar import shown
from .building.options import DEFAULT_MODEL, BuildRequest, GivenRequest
from .building.run_file import keep_build, keep_given
from .building.settings import BuildResult
from .core.nearest import Prefilter
from .demo.dictionary import packaged
from .errors import EPError
from .folder import dictionary as local
from .folder import hub
from .folder.activations import Kept
from .folder.dictionary import StoredDictionary
from .folder.listing import OnDisk, as_percentile, find
from .folder.model import model_of
from .models.loaded import LoadedModel
from .text.windowing import Settings, ordered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

P = ParamSpec("P")

ANNOTATED = 100_000
"""Tokens that a build which is to end annotated is annotated on, where no activations are kept."""

Text = str | Path | Iterable[str] | Iterable[Path] | None


class Build(Protocol[P]):
    """A function with these keywords behind model and text."""

    def __call__(
        self,
        model: str | PreTrainedModel | LoadedModel = DEFAULT_MODEL,
        text: Text = None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> BuildResult:
        """Build dictionaries."""
        ...


class Given(Protocol[P]):
    """A function with these keywords behind activations."""

    def __call__(self, x: Any, *args: P.args, **kwargs: P.kwargs) -> BuildResult:
        """Build dictionaries."""
        ...


class Annotate(Protocol[P]):
    """A function with these keywords behind folder and text."""

    def __call__(
        self, path: str | Path, text: Text = None, *args: P.args, **kwargs: P.kwargs
    ) -> list[StoredDictionary]:
        """Annotate dictionaries."""
        ...


def _asking(request: type[Settings], function: Callable[..., Any]) -> Any:
    """The function with the fields of its last parameter, a request, as keywords: in signature, docstring and calls."""
    whole = inspect.signature(function)
    *first, _ = whole.parameters.values()
    fields = ordered(request)
    keywords = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.default,
            annotation=field.annotation,
        )
        for name, field in fields.items()
    ]
    signature = whole.replace(parameters=[*first, *keywords])

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        asked = {name: given.pop(name) for name in fields if name in given}
        return function(**given, request=request(**asked))

    described = "\n".join(f"    {name}: {field.description}" for name, field in fields.items())
    call.__doc__ = (inspect.getdoc(function) or "").replace("    request: all else.", described)
    vars(call)["__signature__"] = signature
    return call


def _build(request: Callable[P, BuildRequest]) -> Callable[[Callable[..., BuildResult]], Build[P]]:
    return partial(_asking, request)  # pyright: ignore[reportArgumentType]


def _annotate(request: Callable[P, AnnotateRequest]) -> Callable[[Callable[..., list[StoredDictionary]]], Annotate[P]]:
    return partial(_asking, request)  # pyright: ignore[reportArgumentType]


def _given(request: Callable[P, GivenRequest]) -> Callable[[Callable[..., BuildResult]], Given[P]]:
    return partial(_asking, request)  # pyright: ignore[reportArgumentType]


def _lacks_evidence(result: BuildResult) -> bool:
    return not all(OnDisk(folder).annotated for folder in find(result.path))


@_build(BuildRequest)
def build(
    model: str | PreTrainedModel | LoadedModel = DEFAULT_MODEL, text: Text = None, *, request: BuildRequest
) -> BuildResult:
    """Build dictionaries of a model's activations on some text, and write them to a folder.

    Args:
        model: packaged name, hub id, path, or a model object.
        text: files, folders, globs, `hf:` dataset or any iterable of strings; None for the packaged text.
        request: all else.

    Returns:
        The folder, and what is in it.

    Raises:
        EPError: something given does not fit; its subclasses tell damaged files (DataError), lack of
            space or network (ResourceError) and a stop on request (Interrupted).
    """
    if request.annotate and request.keep_activations == "none":
        request = request.model_copy(update={"keep_activations": "calibration"})
    with shown(request) as asked:
        if asked.ray is None:
            result = building.build(model, text, asked)
        else:
            from .ray.build import on
            from .ray.team import Ray

            result = building.build(model, text, asked, on(Ray(asked.ray, asked.workers)))
        keep_build(result.path, model, text, asked)
        if asked.annotate and _lacks_evidence(result):
            kept = Kept.beside(result.path)
            budget = kept.spill.tokens if kept else min(asked.max_tokens, ANNOTATED)
            machine = {"device": asked.device, "ray": None if kept else asked.ray, "workers": asked.workers}
            same = None if asked.generate else text  # answers lie in the folder
            how = {"max_tokens": budget, "field": asked.field, "documents": asked.documents}
            annotate(result.path, same, model=model, on_event=asked.on_event, stop=asked.stop, **how, **machine)
    return result


@_given(GivenRequest)
def build_from_activations(x: Any, *, request: GivenRequest) -> BuildResult:
    """Build dictionaries of activations that you have, whatever they were computed by, and write them to a folder.

    What is not known of model and text is recorded as not known. With token ids, regions have tokens and contexts.

    Args:
        x: path of a file (.npy, .npz, .pt, .safetensors, .parquet, .arrow) or folder of such, which `datasets` or
            SAELens may have saved, or several; an array, tensor or frame [n, d] or [sequences, s, d]; or an iterable of
            arrays, or of pairs (activations, token ids). Files are read in bounded memory.
        request: all else.

    Returns:
        The folder, and what is in it.

    Raises:
        EPError: something given does not fit; its subclasses tell damaged files (DataError), lack of space
            (ResourceError) and a stop on request (Interrupted).
    """
    from .building.given import build_given

    with shown(request) as asked:
        result = build_given(x, asked)
        keep_given(result.path, x, asked)
        if asked.annotate and _lacks_evidence(result):
            known = {"tokens": asked.tokens, "tokenizer": asked.tokenizer, "field": asked.field}
            how = {"max_tokens": ANNOTATED, "on_event": asked.on_event, "stop": asked.stop}
            annotate(result.path, activations=x, **how, **known)
    return result


@_annotate(AnnotateRequest)
def annotate(path: str | Path, text: Text = None, *, request: AnnotateRequest) -> list[StoredDictionary]:
    """Gather evidence for every region of every dictionary in a folder, in one pass over some text.

    The text is cut into windows as it was for the build. The result does not depend on how the work was
    split: a call that was killed goes on where the last checkpoint was when it is repeated.

    Args:
        path: folder of a build, or of one dictionary.
        text: files, folders, globs, `hf:` dataset or any iterable of strings; None for the text the
            dictionaries were built from, if that is the packaged one or a hub dataset.
        request: all else.

    Returns:
        The dictionaries; their `.annotation` is there now.

    Raises:
        EPError: another model, a folder that is annotated already, or text that gives no activations.
    """
    if request.ray is None:
        return annotating.annotate(path, text, request)
    from .ray.annotate import on
    from .ray.team import Ray

    return annotating.annotate(path, text, request, on(Ray(request.ray, request.workers)))


def read(dictionary: StoredDictionary, text: str, model: str | LoadedModel | None = None) -> list[reading.TokenReading]:
    """Read a text through a dictionary: the region of every token, and how far it lies from the exemplar.

    Args:
        dictionary: whose regions.
        text: to read.
        model: the dictionary's, loaded; None: it is loaded anew; or where it is.

    Returns:
        Every token of the text in order.

    Raises:
        EPError: another model, or an empty text.
    """
    return reading.read([dictionary], model_of(dictionary, model), text)[0]


def load(
    path: str | Path,
    *,
    site: str | None = None,
    percentile: float | str | None = None,
    revision: str | None = None,
    device: str = "cpu",
    prefilter: Prefilter | None = None,
) -> StoredDictionary:
    """Load a dictionary from its folder, or by site and percentile from the folder of a build.

    Args:
        path: folder of a build or of one dictionary; a repository of the hub, `org/name`, which is downloaded once;
            or "demo", the dictionary that ships with the package, unless there is a folder of that name.
        site: such as resid_post.12, where the folder holds several.
        percentile: where the folder holds several.
        revision: branch, tag or commit of a repository.
        device: where regions are looked for, such as cpu or cuda.
        prefilter: dtype of the rough arithmetic before the exact one; None: what is fastest here.

    Returns:
        The dictionary; arrays are read when they are first used.

    Raises:
        EPError: there is none, or several fit.
        DataError: files are missing, truncated, altered or of a newer schema.
        ResourceError: a repository is neither in the hub's cache nor to be reached.
    """
    percentile = as_percentile(percentile)
    path = packaged(path)
    if hub.is_repository(path):
        try:
            path = hub.pull(str(path), site=site, percentile=percentile, revision=revision)
        except EPError as error:
            raise type(error)(f"there is no folder {path}, and as a repository of the hub: {error}") from error
    elif revision is not None:
        raise EPError(f"{path} is a folder, which has no revision {revision!r}; leave it out")
    return local.load(path, site=site, percentile=percentile, device=device, prefilter=prefilter)
