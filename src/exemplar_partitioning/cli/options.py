"""Options that commands share, each declared here alone, and values read the way people write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core import choices
from ..demo.dictionary import packaged

if TYPE_CHECKING:
    from ..folder.dictionary import StoredDictionary
    from ..folder.listing import OnDisk
    from ..models.loaded import LoadedModel


def count(text: str | int) -> int:
    """A positive whole number; `2_000_000` and `2e6` are fine."""
    try:
        value = float(text) if "e" in str(text).lower() else int(text)
    except (ValueError, OverflowError):
        value = 0
    if not 1 <= value <= 10**18 or value != int(value):
        raise typer.BadParameter(f"{text!r} is not a positive whole number such as 2_000_000")
    return int(value)


def percentile(text: str | float) -> float:
    """One percentile, strictly between 0 and 100."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise typer.BadParameter(f"{text!r} is not a percentile between 0 and 100")
    return value


def percentiles(text: str) -> list[float]:
    """Percentiles separated by commas."""
    return [percentile(part.strip()) for part in text.split(",")]


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def regions(text: str) -> list[int]:
    """Numbers of regions, separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of regions such as 1,2,3") from None


def _completed(context: typer.Context, beginning: str, part: int) -> list[str]:
    """What the folders of dictionaries in DIR, or A, are called; the names alone are read."""
    # after an option that lacks its value, arguments are not given to their names
    given = [context.params.get(name) for name in ("path", "a")] + [*(context.params.get("folders") or ())][:1]
    root = next(filter(None, given), None) or next(iter(context.args), None)
    files = Path(root).glob("*/p*/config.json") if root else ()
    names = {file.parts[part].removeprefix("p" if part == -2 else "") for file in files}
    return sorted(name for name in names if name.startswith(beginning))


def _sites(ctx: typer.Context, incomplete: str) -> list[str]:
    return _completed(ctx, incomplete, -3)


def _percentiles(ctx: typer.Context, incomplete: str) -> list[str]:
    return _completed(ctx, incomplete, -2)


_FOLDER = "Folder of a build, or of one dictionary; demo: the packaged one."
Folder = Annotated[Path, typer.Argument(help=_FOLDER, metavar="DIR", callback=packaged)]
FolderA = Annotated[Path, typer.Argument(help=_FOLDER, metavar="A", callback=packaged)]
FolderB = Annotated[Path, typer.Argument(help="Folder of the other.", metavar="B", callback=packaged)]
Site = Annotated[
    str | None,
    typer.Option(help="Site, where there are several, e.g. resid_post.15.", autocompletion=_sites),
]
Percentile = Annotated[
    float | None,
    typer.Option(
        help="Percentile, where there are several.",
        parser=percentile,
        metavar="NUMBER",
        autocompletion=_percentiles,
    ),
]
SiteB = Annotated[str | None, typer.Option(help="Site of B, if another.")]
PercentileB = Annotated[
    float | None,
    typer.Option(help="Percentile of B, if another.", parser=percentile, metavar="NUMBER"),
]
Model = Annotated[str | None, typer.Option(help="Where the model is, if it has moved.")]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model; read it first.")
]
ModelA = Annotated[str | None, typer.Option("--model", help="Where A's model is, if it has moved.")]
ModelB = Annotated[str | None, typer.Option(help="Where B's model is, if it has moved.")]
Text = Annotated[
    list[str] | None,
    typer.Option(help="Text for both models to read; may be given more than once."),
]
Texts = Annotated[list[str], typer.Argument(help="Text: files, folders, globs or hf:owner/dataset.")]
MaxTokens = Annotated[int, typer.Option(help="Tokens of text to read.", parser=count, metavar="COUNT")]
Field = Annotated[str, typer.Option(help="Column or key that holds the text.")]
Steps = Annotated[int, typer.Option("-k", "--k", help="Regions for a token at most.")]
Basis = Annotated[choices.Basis, typer.Option(help="exemplar, or mean for mean directions of members.")]
Method = Annotated[choices.Method, typer.Option(help="omp, orthogonal matching pursuit, or mp, plain and faster.")]
Chat = Annotated[
    bool | None, typer.Option("--chat/--raw", help="Use the chat template or not.", show_default="if there is one")
]
Dtype = Annotated[str, typer.Option(help="Of the forward pass: auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
JsonLines = Annotated[bool, typer.Option("--json", help="One JSON event per line instead of a display.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")]
Sort = Annotated[str, typer.Option(help="interest: what is no single word, and differs; or members.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document in place of text for people.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Extract on a Ray cluster: local for one in this machine, auto for the one that runs here, or host:port. "
        "Same result, byte for byte.",
        rich_help_panel="Many machines",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Workers on the cluster, each with the threads, or the GPU, of this process.",
        show_default="as many as it has room for",
        rich_help_panel="Many machines",
    ),
]


def workers(ray: str | None, asked: int | None) -> None:
    """See that workers are only asked for on a cluster."""
    if asked is not None and ray is None:
        raise typer.BadParameter("--workers needs --ray: local, auto or host:port")


def listed(path: Path, site: str | None, percentile: float | None) -> list[OnDisk]:
    """All dictionaries that fit, without their exemplars; EPError, saying which there are, if none does."""
    from ..folder.listing import OnDisk, choose, find

    fitting = [
        d
        for d in (OnDisk(folder) for folder in (find(path) if path.is_dir() else []))
        if (site is None or site in (d.config.site.name, d.config.site.transformer_lens, d.config.site.module_path))
        and (percentile is None or d.config.calibration.percentile == percentile)
    ]
    return fitting or [OnDisk(choose(path, site, percentile))]


def dictionaries(path: Path, site: str | None, percentile: float | None) -> list[StoredDictionary]:
    """All dictionaries that fit; EPError, saying which there are, if none does."""
    from ..folder.dictionary import load

    return [load(d.path) for d in listed(path, site, percentile)]


def chosen_dictionary(path: Path, site: str | None, percentile: float | None) -> StoredDictionary:
    """The one dictionary that fits; EPError, saying which there are, if none or several do."""
    from ..folder.dictionary import load

    return load(path, site=site, percentile=percentile)


def reader(path: Path, model: str | None, trust_remote_code: bool, device: str = "auto") -> str | LoadedModel | None:
    """What reads text for the dictionaries of a folder: loaded here where code of its own may run, else its name."""
    if not trust_remote_code:
        return model
    from ..folder.dictionary import load
    from ..folder.model import model_of

    dictionary = load(listed(path, None, None)[0].path)
    return model_of(dictionary, model, device=device, trust_remote_code=True)


def sources(names: list[str] | None) -> list[Path] | None:
    """Files, folders, globs and hub datasets named on the command line."""
    return [Path(name) for name in names] if names else None
