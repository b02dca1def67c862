"""Documents from wherever the user has them: files, folders, globs, the hub, any iterable of strings."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import DataError, EPError
from .readers import Document, Reading, SkipCallback, known_extensions, read_hub, reader_of, require_hub

HUB_PREFIX = "hf:"

Sources = str | Path | Iterable[str] | Iterable[Path] | Iterable[str | Path]


class DocumentSource:
    """Documents that can be iterated, from the start each time; see `read_documents`.

    `name` describes the source in a few words and does not depend on where its files lie.
    """

    def __init__(self, name: str, start: Callable[[], Iterator[Document]]) -> None:
        self.name = name
        self._start = start

    def __iter__(self) -> Iterator[Document]:
        return self._start()


def read_documents(
    sources: Sources,
    *,
    field: str = "text",
    on_skip: SkipCallback | None = None,
    strict: bool = False,
) -> DocumentSource:
    """The documents of `sources`; files are found now and read when iterated.

    `sources` is one of
    - a file, folder or glob, or a sequence of them. Formats go by extension: .txt and .md (one document a
      file), .jsonl, .json, .csv, .parquet (one a row, text in `field`), each but parquet also .gz/.zst/.bz2.
      A folder gives its files of known extension, sorted, at any depth, leaving out hidden ones;
    - `hf:owner/name[:split]`: a hub dataset, streamed (needs the extra `datasets`); in a sequence, read after
      all files;
    - any other iterable of strings. An iterator can be iterated once only.

    In a sequence, a Path is always a source, and a string is one when it exists, starts with `hf:` or ends
    in a known extension; when only some of the strings are, that is an error.

    A document that is empty is skipped; one that is not text (binary, not UTF-8, lone surrogates) is skipped,
    or raises DataError when `strict`. `on_skip(id, reason)` is told of each. Other damage is always an error.

    Ids use paths as given when relative. Absolute ones are cut to what lies below the deepest folder common
    to all sources, so that ids do not depend on where the data lies.
    """
    reading = Reading(field, on_skip, strict)
    if isinstance(sources, (str, Path)):
        return _from_sources([sources], reading)
    if isinstance(sources, (bytes, dict)) or not isinstance(sources, Iterable):
        raise EPError(
            f"cannot read documents from {type(sources).__name__}. Expected a path, a glob, hf:owner/name, "
            "a list of these, or an iterable of strings."
        )
    if isinstance(sources, Sequence) and sources:
        are_sources = [_looks_like_source(item) for item in sources]
        if all(are_sources):
            return _from_sources(sources, reading)
        if any(are_sources):
            yes, no = sources[are_sources.index(True)], sources[are_sources.index(False)]
            raise EPError(
                f"cannot tell whether a list holds files or texts: {str(yes)[:80]!r} looks like a source, "
                f"{str(no)[:80]!r} does not. Give sources as pathlib.Path, or texts as an iterator."
            )
    return _from_strings(sources, reading)


def _looks_like_source(item: object) -> bool:
    if isinstance(item, Path):
        return True
    if not isinstance(item, str) or "\n" in item or "\0" in item or len(item) > 4096:
        return False
    if item.startswith(HUB_PREFIX) or reader_of(Path(item)) is not None:
        return True
    try:
        return os.path.exists(item)  # noqa: PTH110 - Path.exists raises on over-long names before 3.12
    except OSError:
        return False


def _from_strings(texts: Iterable[object], reading: Reading) -> DocumentSource:
    once = isinstance(texts, Iterator)
    consumed = False

    def start() -> Iterator[Document]:
        nonlocal consumed
        if once and consumed:
            raise EPError("the texts came as an iterator, which is used up. Give a list to read them again.")
        consumed = True
        return read()

    def read() -> Iterator[Document]:
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"text {number} is of type {type(text).__name__}, expected a string. Of rows, "
                    "give one field: (row['text'] for row in rows)."
                )
            document = reading.document(str(number), text)
            if document is not None:
                yield document

    return DocumentSource("strings", start)


def _from_sources(sources: Sequence[object], reading: Reading) -> DocumentSource:
    hub = [str(source)[len(HUB_PREFIX) :] for source in sources if str(source).startswith(HUB_PREFIX)]
    for dataset in hub:
        require_hub(dataset)
    files = _named_files([str(source) for source in sources if not str(source).startswith(HUB_PREFIX)])

    def start() -> Iterator[Document]:
        for name, path in files.items():
            reader = reader_of(path)
            assert reader is not None  # _named_files gives no other
            yield from reader(path, name, reading)
        for dataset in hub:
            yield from read_hub(dataset, reading)

    names = [*files, *(HUB_PREFIX + dataset for dataset in hub)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return DocumentSource(", ".join(names[:3]) + more, start)


def _named_files(sources: list[str]) -> dict[str, Path]:
    """Files by the name that their documents' ids use, in order, each file once."""
    if not sources:
        return {}
    found = [_find(source) for source in sources]
    absolute = [Path(source).is_absolute() for source in sources]
    base: Path | None = None
    if any(absolute):
        # Mixed with relative ones, all are taken as absolute: two files never get one name.
        base = Path(os.path.commonpath([root.absolute() for root, _ in found]))
    named: dict[str, Path] = {}
    seen: set[Path] = set()
    for _, paths in found:
        for path in paths:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            named[(path if base is None else path.absolute().relative_to(base)).as_posix()] = path
    return named


def _find(source: str) -> tuple[Path, list[Path]]:
    """The folder a source lies in (a folder lies in itself), and its readable files, sorted."""
    path = Path(source)
    if path.is_file():
        if reader_of(path) is None:
            raise EPError(f"{source}: unknown extension '{path.suffix}'. Expected {known_extensions()}.")
        return path.parent, [path]
    if path.is_dir():
        root, candidates = path, path.rglob("*")
    elif glob.has_magic(source):
        # Not Path.glob, which takes relative patterns only.
        matches = glob.glob(source, recursive=True)  # noqa: PTH207
        root, candidates = _plain_root(path), map(Path, matches)
    else:
        raise EPError(
            f"{source}: no such file or folder (looked in {Path.cwd()}). Expected a text file, a folder, a "
            "glob, or hf:owner/name."
        )
    every = [file for file in candidates if file.is_file() and not _hidden(file.relative_to(root))]
    files = sorted((file for file in every if reader_of(file) is not None), key=lambda file: file.as_posix())
    if not files:
        others = ", ".join(sorted({file.suffix or file.name for file in every})) or "nothing"
        raise EPError(f"{source}: no text files here (found: {others}). Expected {known_extensions()}.")
    return root, files


def _plain_root(pattern: Path) -> Path:
    """The deepest folder of a glob that holds no wildcard."""
    root = pattern.parent
    while glob.has_magic(str(root)):
        root = root.parent
    return root


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_prompts(path: str | Path, field: str = "text") -> list[str]:
    """Prompts of a file of rows, or of a text file with one a line; EPError if there is none."""
    path = Path(path)
    if path.suffix == ".txt":
        try:
            found = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise EPError(f"{path} cannot be read: {error}") from error
    else:
        found = [document.text for document in read_documents(path, field=field)]
    prompts = [prompt.strip() for prompt in found if prompt.strip()]
    if not prompts:
        raise EPError(f"{path} holds no prompts")
    return prompts
