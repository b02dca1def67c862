"""Documents from wherever the user has them: files, folders, globs, the hub, any iterable of strings."""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import DataError, EPError
from .formats import FORMATS, format_of, known_extensions, read_file
from .hub import HUB_PREFIX, read_hub, require_hub
from .raw import decoded_lines, open_binary
from .readers import Document, Reading, SkipCallback
from .tables import METADATA, saved_shards

_PLAIN = FORMATS.keys() - {".parquet", ".arrow"}  # as many bytes as their text has, about
# What lies beside the text of a repository, by the name before its suffix; rows of such a name are text.
_PAPERS = frozenset(
    {"license", "licence", "copying", "notice", "changelog", "contributing", "code_of_conduct", "security"}
    | {"authors", "citation", "requirements"}
)
_LONGEST_NAME = 255  # bytes of a name between slashes
_GIVE_TEXTS = "Texts themselves are given in a list: [text]."

Sources = str | Path | Iterable[str] | Iterable[Path] | Iterable[str | Path] | Iterable[Mapping[str, object]]


class DocumentSource:
    """Documents that can be iterated, from the start each time; see `read_documents`.

    `name` describes the source in a few words and does not depend on where its files lie; `size` are its bytes, where
    they are plain text.
    """

    def __init__(self, name: str, start: Callable[[], Iterator[Document]], size: int | None = None) -> None:
        self.name, self.size = name, size
        self._start = start

    def __iter__(self) -> Iterator[Document]:
        return self._start()

    def first(self, limit: int) -> "DocumentSource":
        """The first so many of the documents."""
        return DocumentSource(self.name, lambda: itertools.islice(self._start(), limit))


def read_documents(
    sources: Sources,
    *,
    field: str = "text",
    on_skip: SkipCallback | None = None,
    strict: bool = False,
    mask: str | None = None,
    limit: int | None = None,
) -> DocumentSource:
    """The documents of `sources`; files are found now and read when iterated.

    `sources` is one of
    - a file, folder or glob, or a sequence of them. Formats go by extension, in either case: .txt and .md (one
      document a file), .jsonl (.ndjson, .jsonlines), .json, .csv, .tsv, .parquet, .arrow (one a row), each but the
      last two also .gz/.zst/.bz2. A folder gives its files of known extension, sorted, at any depth, leaving out
      hidden ones, the records of `datasets` and, beside other files than .md, README, LICENSE and their like;
    - `hf:owner/name[:subset][:split]`: a hub dataset, streamed (needs the extra `datasets`); in a sequence, read
      after all files;
    - any other iterable of strings or rows. An iterator can be iterated once only.

    `field` is where in a row the text is: `meta.text` goes into objects, `title+body` joins two. Rows that are
    conversations give documents with turns: where `field` names a list of turns, or none is named and there is no
    `text` but `messages`, `conversations`, or a prompt with its answer (see `conversations.conversation_of`).

    In a sequence, a Path is always a source, and a string is one when it exists, starts with `hf:` or ends
    in a known extension; when only some of the strings are, that is an error.

    A document that is empty is skipped; one that is not text (binary, not UTF-8, lone surrogates) is skipped,
    or raises DataError when `strict`. `on_skip(id, reason)` is told of each. Other damage is always an error, and
    so is a document of more than 32 MB.

    `mask` names a field that marks tokens (`text/marks.py`), which documents have along. At most `limit` are given.

    Ids use paths as given when relative. Absolute ones are cut to what lies below the deepest folder common
    to all sources, so that ids do not depend on where the data lies.
    """
    source = _source_of(sources, Reading(field, on_skip, strict, mask))
    return source if limit is None else source.first(limit)


def _source_of(sources: Sources, reading: Reading) -> DocumentSource:
    if sources == "":
        raise EPError(f"cannot read documents from an empty name. Expected a path. {_GIVE_TEXTS}")
    if isinstance(sources, (str, Path)):
        return _from_sources([sources], reading)
    if isinstance(sources, (bytes, dict)) or not isinstance(sources, Iterable):
        raise EPError(
            f"cannot read documents from {type(sources).__name__}. Expected a path, a glob, hf:owner/name, "
            "a list of these, or an iterable of strings."
        )
    if isinstance(sources, Sequence) and sources:
        are_sources = [looks_like_source(item) for item in sources]
        if all(are_sources):
            return _from_sources(sources, reading)
        if any(are_sources):
            yes, no = sources[are_sources.index(True)], sources[are_sources.index(False)]
            raise EPError(
                f"cannot tell whether a list holds files or texts: {str(yes)[:80]!r} looks like a source, "
                f"{str(no)[:80]!r} does not. Give sources as pathlib.Path, or texts as an iterator."
            )
    return _from_strings(sources, reading)


def looks_like_source(item: object) -> bool:
    """Whether what is in a list is where text lies, rather than a text."""
    if isinstance(item, Path):
        return True
    if not isinstance(item, str) or "\n" in item or "\0" in item or len(item) > 4096:
        return False
    if item.startswith(HUB_PREFIX) or format_of(Path(item)) is not None:
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
            if not isinstance(text, (str, Mapping)):
                raise DataError(
                    f"text {number} is of type {type(text).__name__}, expected a string, or a row with its fields."
                )
            row = text if isinstance(text, str) else dict(text)
            document = reading.document(str(number), row, f"row {number}")
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
            yield from read_file(path, name, reading)
        for dataset in hub:
            yield from read_hub(dataset, reading)

    names = [*files, *(HUB_PREFIX + dataset for dataset in hub)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    plain = not hub and all(path.suffix.lower() in _PLAIN for path in files.values())
    size = sum(path.stat().st_size for path in files.values()) if plain else None
    return DocumentSource(", ".join(names[:3]) + more, start, size)


def _named_files(sources: list[str]) -> dict[str, Path]:
    """Files by the name that their documents' ids use, in order, each file once."""
    if not sources:
        return {}
    files = [_find(source) for source in sources]
    absolute = [Path(source).is_absolute() for source in sources]
    base: Path | None = None
    if any(absolute):
        # Mixed with relative ones, all are taken as absolute: two files never get one name.
        base = Path(os.path.commonpath([root.absolute() for root, _ in files]))
    named: dict[str, Path] = {}
    seen: set[Path] = set()
    for _, paths in files:
        for path in paths:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            named[(path if base is None else path.absolute().relative_to(base)).as_posix()] = path
    return named


def _find(source: str) -> tuple[Path, list[Path]]:
    """The folder a source lies in (a folder lies in itself), and its readable files, sorted."""
    if "\n" in source or "\0" in source or max(map(len, source.encode().split(b"/"))) > _LONGEST_NAME:
        raise EPError(f"{_shown(source)} is a text, not the name of a file. {_GIVE_TEXTS}")
    path = Path(source)
    if path.is_file():
        if format_of(path) is None:
            raise EPError(
                f"{source}: unknown extension '{path.suffix}'. Expected {known_extensions()}; activations "
                "that you have are given with --activations (ep.build_from_activations)."
            )
        return path.parent, [path]
    text = f" {_GIVE_TEXTS}" if " " in source and format_of(path) is None else ""
    if path.is_dir():
        root, candidates = path, path.rglob("*")
    elif glob.has_magic(source):
        # Not Path.glob, which takes relative patterns only.
        matches = glob.glob(source, recursive=True)  # noqa: PTH207
        root, candidates = _plain_root(path), map(Path, matches)
    else:
        raise EPError(
            f"{_shown(source)}: no such file or folder (looked in {Path.cwd()}). Expected a text file, a folder, a "
            f"glob, or hf:owner/name.{text}"
        )
    every = [file for file in candidates if file.is_file() and not _hidden(file.relative_to(root))]
    files = sorted(_texts(every), key=lambda file: file.as_posix())
    if not files:
        others = ", ".join(sorted({file.suffix or file.name for file in every})) or "nothing"
        raise EPError(f"{source}: no text files here (found: {others}). Expected {known_extensions()}.{text}")
    return root, files


def _shown(source: str) -> str:
    return source if len(source) <= 1024 and source.isprintable() else repr(source[:80])


def _texts(every: list[Path]) -> list[Path]:
    """The files that hold text, of those in a folder: no records of `datasets`, none of its caches, no card."""
    shards = {file.parent: saved_shards(file.parent) for file in every if file.name == "state.json"}
    files = []
    for file in every:
        listed = shards.get(file.parent)
        left_out = file.name in METADATA or (
            listed is not None and (file.name == "state.json" or (file.suffix == ".arrow" and file not in listed))
        )
        if format_of(file) is not None and not left_out:
            files.append(file)
    others = [file for file in files if not _is_paper(file)]
    return others if any(format_of(file) != ".md" for file in others) else files


def _is_paper(file: Path) -> bool:
    name = file.stem.lower()
    return name == "readme" or (name in _PAPERS and format_of(file) in (".md", ".txt"))


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
    if path.is_file() and format_of(path) == ".txt":
        with open_binary(path, path.name) as stream:
            prompts = list(decoded_lines(stream, path.name))
    else:
        documents = list(read_documents(path, field=field))
        if any(document.turns for document in documents):
            raise EPError(f"{path} holds conversations. Name the field of its prompts (field=).")
        prompts = [document.text for document in documents]
    prompts = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not prompts:
        raise EPError(f"{path} holds no prompts")
    return prompts
