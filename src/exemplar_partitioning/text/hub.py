"""Datasets of the Hugging Face hub, streamed."""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import EPError, ResourceError
from .readers import Document, Reading

HUB_PREFIX = "hf:"
_FORM = "hf:owner/name[:subset][:split]"


def read_hub(dataset: str, reading: Reading) -> Iterator[Document]:
    """Rows of `owner/name[:subset][:split]`, streamed; the split is `train` unless named.

    One name alone is a subset if the dataset has one so called, and else a split.
    """
    name = f"{HUB_PREFIX}{dataset}"
    try:
        path, subset, split = _resolved(dataset, name)
        name = ":".join(filter(None, (f"{HUB_PREFIX}{path}", subset, split)))
        rows = import_module("datasets").load_dataset(path, subset, split=split, streaming=True)
        for row, value in enumerate(rows):
            document = reading.document(f"{name}:{row}", value, f"{name}, row {row}")
            if document is not None:
                yield document
    except EPError:
        raise
    except Exception as error:  # the package raises whatever its network and file layers raise
        kind = ResourceError if isinstance(error, (ConnectionError, TimeoutError)) else EPError
        raise kind(
            f"{name}: cannot be read ({type(error).__name__}: {error}). Expected {_FORM} of a "
            "dataset the hub can stream; check the name, the subset, the split and the network."
        ) from error


def _resolved(dataset: str, name: str) -> tuple[str, str | None, str]:
    """Path, subset and split."""
    path, *parts = dataset.split(":")
    if len(parts) > 2 or not all((path, *parts)):
        raise EPError(f"{name}: expected {_FORM}.")
    datasets: Any = import_module("datasets")
    if len(parts) == 2:
        return path, parts[0], parts[1]
    if not parts or parts == ["train"]:
        return path, None, "train"
    subsets = datasets.get_dataset_config_names(path)
    if parts[0] in subsets:
        return path, parts[0], "train"
    subset = None if len(subsets) != 1 else subsets[0]
    splits = datasets.get_dataset_split_names(path, subset) if len(subsets) == 1 else []
    # Slices of splits, `train[:1%]`, are left to the package.
    if splits and parts[0].split("[")[0].split("+")[0] not in splits:
        raise EPError(
            f"{name}: no subset or split is called {parts[0]!r}. Subsets: {', '.join(subsets)}; "
            f"splits: {', '.join(splits)}."
        )
    if len(subsets) > 1 and "default" not in subsets:
        raise EPError(f"{name}: name one of the dataset's subsets, {', '.join(subsets)}, as {_FORM}.")
    return path, None, parts[0]


def require_hub(dataset: str) -> None:
    """Raise EPError unless the optional package that reads hub datasets is there."""
    if find_spec("datasets") is None:
        raise EPError(
            f"{HUB_PREFIX}{dataset}: a dataset of the hub needs the package `datasets`, which is not installed. "
            "Run: pip install 'exemplar-partitioning[datasets]'"
        )
