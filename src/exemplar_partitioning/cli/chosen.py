"""The dictionary that a command is about, with the arguments and options that name it and its model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options
from .asking import with_parameters

if TYPE_CHECKING:
    from ..folder.dictionary import StoredDictionary
    from ..models.loaded import LoadedModel


@dataclass(frozen=True)
class Chosen:
    """What was named; dictionary and model are read when they are asked for."""

    path: Path
    site: str | None
    percentile: float | None
    model: str | None
    trust_remote_code: bool

    @cached_property
    def dictionary(self) -> StoredDictionary:
        """The one that fits."""
        return options.chosen_dictionary(self.path, self.site, self.percentile)

    @cached_property
    def loaded(self) -> LoadedModel:
        """Its model."""
        from ..folder.model import model_of

        return model_of(self.dictionary, self.model, trust_remote_code=self.trust_remote_code)

    @property
    def reader(self) -> str | LoadedModel | None:
        """Where it is, for what loads it itself; loaded here where code of its own may run."""
        return self.loaded if self.trust_remote_code else self.model


def of_dictionary(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in the place of its first parameter, all that names a dictionary and its model."""
    first, *others = inspect.signature(command, eval_str=True).parameters.values()
    path, *named = inspect.signature(_named, eval_str=True).parameters.values()

    @wraps(command)
    def call(**values: Any) -> None:
        chosen = Chosen(**{name: values.pop(name) for name in Chosen.__dataclass_fields__})
        command(**{first.name: chosen}, **values)

    last = [each for each in others if each.name == "as_json"]
    return with_parameters(call, [path, *(each for each in others if each not in last), *named, *last])


def _named(
    path: options.Folder,
    site: options.Site = None,
    percentile: options.Percentile = None,
    model: options.Model = None,
    trust_remote_code: options.RemoteCode = False,
) -> None: ...
