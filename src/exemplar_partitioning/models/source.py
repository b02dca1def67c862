"""From a packaged name, a folder, a GGUF file or a hub id to a model: where it lies, and whether it is there whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..demo.gguf import read_gguf
from ..demo.models import PACKAGED_MODELS, PackagedModel, packaged_model
from ..errors import DataError, EPError, ResourceError
from ..quiet import first_line, quiet
from .identity import weights_hash_of

_LFS = b"version https://git-lfs.github.com/spec/"
_WEIGHTS_ALONE = (
    "holds weights alone, which do not say what model they are of. Load them into their model in your own code "
    "(model.load_state_dict) and give the object, or write a folder with model.save_pretrained and "
    "tokenizer.save_pretrained"
)
_STATE_DICTS = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
_NAMED = 3  # keys in a message
# Last parts of keys that hold no weight: constants that earlier versions of transformers saved, now made anew.
_CONSTANTS = frozenset(("masked_bias", "inv_freq", "position_ids", "causal_mask"))


@dataclass(frozen=True, eq=False)
class Source:
    """A model found by its name, before any weight is read."""

    name: str
    """As it was asked for."""
    path: Path | None
    """Folder or GGUF file; None for the hub."""
    revision: str | None
    packaged: PackagedModel | None = None
    trust_remote_code: bool = False
    base: str | None = None
    """Of an adapter: the model to put it on, if not the one it names."""

    @property
    def _place(self) -> str | Path:
        return self.name if self.path is None else self.path

    @property
    def _options(self) -> dict[str, Any]:
        where = {"revision": self.revision or "main"} if self.path is None else {"local_files_only": True}
        return {**where, "trust_remote_code": self.trust_remote_code}

    @cached_property
    def config(self) -> Any:
        """The configuration alone."""
        from transformers import AutoConfig

        with self._reading(), quiet():
            return AutoConfig.from_pretrained(self._place, **self._options)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer alone; with a GGUF file it comes out of the whole."""
        if self._is_gguf:
            return self.read(torch.float32)[1]
        with self._reading(), quiet():
            return read_tokenizer(self._place, **self._options)

    def outline(self) -> Any:
        """The model without its weights, for what can be told from its modules; a GGUF file is read whole."""
        if self._is_gguf:
            return self.read(torch.float32)[0]
        if (base := self._base()) is not None:
            return base.outline()
        with self._reading(), quiet(), torch.device("meta"):
            kind = self._kind()
            if hasattr(kind, "from_config"):
                return kind.from_config(self.config, trust_remote_code=self.trust_remote_code)
            return kind(self.config)

    def read(self, dtype: Any) -> tuple[Any, Any]:
        """The model and its tokenizer.

        Args:
            dtype: of the weights; "auto": as they are stored.

        Raises:
            DataError: damaged or incomplete files, or weights that are not all the model's.
            EPError, ResourceError: not a causal language model, or not to be had.
        """
        if self._is_gguf:
            assert self.path is not None
            _refuse_pointers([self.path])
            model, tokenizer, report = read_gguf(self.path)
            model = whole(model, report, self.name)
            return (model.to(dtype) if isinstance(dtype, torch.dtype) else model), tokenizer
        if self.path is not None:
            _refuse_pointers(sorted(self.path.iterdir()))
        if (base := self._base()) is not None:
            return self._adapted(base, dtype)
        kind = self._kind()
        with self._reading(), quiet():
            tokenizer = read_tokenizer(self._place, **self._options)
            model, report = kind.from_pretrained(
                self._place,
                config=self.config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `whole` names them
                **self._options,
            )
        return whole(model, report, self.name, self.config), tokenizer

    @property
    def _is_gguf(self) -> bool:
        return self.path is not None and self.path.suffix == ".gguf"

    def _base(self) -> Source | None:
        """The model that an adapter of PEFT in this folder belongs to; None where the folder holds a model."""
        if self.path is None or (self.path / "config.json").exists():
            return None
        if not (stated := self.path / "adapter_config.json").exists():
            return None
        with self._reading():
            adapter = json.loads(stated.read_text(encoding="utf-8"))
            of, revision = self.base or adapter.get("base_model_name_or_path"), adapter.get("revision")
        if not of:
            raise EPError(
                f"{self.name} is an adapter that does not say of which model: give that, and this folder with "
                "--adapter (adapter=)"
            )
        return find(of, None if self.base else revision, self.trust_remote_code)

    def _adapted(self, base: Source, dtype: Any) -> tuple[Any, Any]:
        if find_spec("peft") is None:
            raise EPError(f"{self.name} is an adapter of PEFT, which is not installed: run `pip install peft`")
        model, tokenizer = base.read(dtype)
        with self._reading(), quiet():
            try:
                report = model.load_adapter(str(self.path))
            except (RuntimeError, ValueError) as error:
                raise DataError(
                    f"{self.name} is an adapter of another model than {base.name}, or of another version of PEFT: "
                    f"{'weights of other shapes' if 'mismatched_sizes' in str(error) else first_line(error)}"
                ) from error
            if report is not None:
                whole(model, {**vars(report), "unexpected_keys": report.unexpected_keys}, self.name)
            if (self._place / Path("tokenizer_config.json")).exists():
                tokenizer = read_tokenizer(self._place, **self._options)
        return model, tokenizer

    def _kind(self) -> Any:
        """The class to load: of causal language models, else, as for many that see, the one that was saved."""
        import transformers
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        config = self.config
        if config.is_encoder_decoder:
            raise EPError(
                f"{self.name} is a {type(config).__name__.removesuffix('Config')} model with an encoder, which reads a "
                "text as a whole; expected a decoder-only language model"
            )
        remote = self.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
        if remote or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            return transformers.AutoModelForCausalLM
        for name in config.architectures or ():
            kind = getattr(transformers, name, None)
            if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
                return kind
        raise EPError(
            f"{self.name} is a {type(config).__name__.removesuffix('Config')} model, of which this version of "
            "transformers has no causal language model. Load it in your own code and give the object"
        )

    def check_published(self, weights: str, dtype: str) -> None:
        """Raise DataError unless a packaged model's weights are the published ones.

        Args:
            weights: their hash as loaded; in another dtype than float32 that of the file is taken.
            dtype: of the weights as loaded.
        """
        if self.packaged is None or self.path is None:
            return
        present = weights
        if dtype != "float32":
            from safetensors.torch import load_file

            present = weights_hash_of(load_file(self.path / "model.safetensors"))
        if present != self.packaged.weights:
            raise DataError(
                f"the weights of {self.name} in {self.path} are not those that were published: sha256 "
                f"{present[:12]}, expected {self.packaged.weights[:12]}. Delete the folder and run again to fetch it "
                "anew"
            )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say what other libraries' errors mean for this source."""
        try:
            yield
        except EPError:
            raise
        except Exception as error:  # whatever a damaged file provokes, from four libraries
            if "trust_remote_code" in str(error):
                raise EPError(
                    f"{self.name} comes with code of its own, which is not run unless you say so: read it, then give "
                    "--trust-remote-code (trust_remote_code=True), or use a version of transformers that knows the "
                    "architecture"
                ) from error
            if self.path is not None:
                raise DataError(self._unlike(error)) from error
            if not isinstance(error, OSError | ValueError):
                raise
            raise _hub_error(self.name, self.revision, error) from error

    def _unlike(self, error: Exception) -> str:
        """What is wrong with a file or folder, and what was expected of it."""
        assert self.path is not None
        if (self.path / "adapter_config.json").exists() and not (self.path / "config.json").exists():
            return (
                f"the adapter {self.path} is damaged or half written: {first_line(error)}. Expected it as PEFT's "
                "save_pretrained writes it: adapter_config.json and adapter_model.safetensors."
            )
        files = sorted(self.path.iterdir()) if self.path.is_dir() else []
        weights = [file.name for file in files if file.suffix in _STATE_DICTS]
        if weights and not (self.path / "config.json").exists():
            return f"{self.path} has no config.json, and {weights[0]} {_WEIGHTS_ALONE}"
        return (
            f"{self.path} cannot be loaded as a causal language model: {first_line(error)}. Expected a folder as "
            "written by save_pretrained: config.json, weights and tokenizer files."
        )


def find(model: str | Path, revision: str | None, trust_remote_code: bool = False) -> Source:
    """Where the model of a name lies; fetches nothing but packaged models.

    Raises:
        EPError: there is nothing at a path, it is a file of another kind, or a revision of what has none.
        ResourceError: a packaged model that cannot be fetched.
    """
    name, path = str(model), Path(model).expanduser()
    local = isinstance(model, Path) or looks_local(name)
    packaged = PACKAGED_MODELS.get(name) if not local else None
    if revision is not None and (packaged is not None or path.exists()):
        raise EPError(
            f"a revision ({revision!r}) only makes sense for a hub id, but {name!r} is not one; leave it out."
        )
    if packaged is not None:
        return Source(name, packaged_model(name), packaged.revision, packaged)
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return Source(name, path, None, trust_remote_code=trust_remote_code)
    if path.is_file() and path.suffix in _STATE_DICTS:
        raise EPError(f"{name!r} {_WEIGHTS_ALONE}")
    if local or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise EPError(f"there is no model at {name!r}: expected a transformers folder or a .gguf file. {_choices()}")
    return Source(name, None, revision, trust_remote_code=trust_remote_code)


def adapted(base: str | Path, adapter: str | Path, trust_remote_code: bool = False) -> Source:
    """An adapter of PEFT in a folder, on a model; EPError where there is none."""
    if not (Path(adapter).expanduser() / "adapter_config.json").is_file():
        raise EPError(
            f"there is no adapter in {adapter}: expected a folder with adapter_config.json, as PEFT's save_pretrained "
            "writes it"
        )
    return replace(find(Path(adapter), None, trust_remote_code), base=str(base))


def read_tokenizer(place: str | Path, **options: Any) -> Any:
    """The tokenizer that lies with a model."""
    from transformers import AutoTokenizer

    with quiet():
        return AutoTokenizer.from_pretrained(place, **{"trust_remote_code": False, **options})


def looks_local(name: str) -> bool:
    """Whether a name is meant as a path."""
    return name.startswith((".", "/", "~")) or name.endswith(".gguf") or Path(name).is_dir()


def whole(model: Any, report: dict[str, Any], where: str, config: Any = None) -> Any:
    """The model, if every weight came from the file and every weight of the file is the model's.

    Args:
        model: as it was loaded.
        report: what transformers says of loading it (`output_loading_info`).
        where: the file or folder, for messages.
        config: of all that the folder holds, where the model may be a part of it.

    Returns:
        The model; without its head, where that alone was not in the file: transformers would have drawn it at random.

    Raises:
        DataError: weights are missing, superfluous or of another shape; some are named.
    """
    missing = set(report["missing_keys"])
    unexpected = {key for key in report["unexpected_keys"] if key.rpartition(".")[2] not in _CONSTANTS}
    if unexpected and config is not None and config.get_text_config() is not config:
        unexpected -= _weights_of(config)
    mismatched = {str(key[0] if isinstance(key, tuple | list) else key) for key in report["mismatched_keys"]}
    head = model.get_output_embeddings()
    heads = {name for name, module in model.named_modules() if module is head and head is not None}
    if missing and not (unexpected or mismatched) and {key.rpartition(".")[0] for key in missing} <= heads:
        return model.base_model
    wrong = {"missing": missing, "not of this model": unexpected, "of another shape": mismatched}
    problems = [f"{len(keys):,} {what} ({_some(keys)})" for what, keys in wrong.items() if keys]
    if report.get("error_msgs"):
        problems.append(first_line(ValueError(report["error_msgs"][0])))
    if problems:
        raise DataError(
            f"the weights in {where} are not those of its {type(model).__name__}: {'; '.join(problems)}. transformers "
            "would draw missing ones at random. A prefix such as `_orig_mod.` or `module.` comes of saving a compiled "
            "or wrapped one: save the model inside. A model with another head: load it with its class, give the object"
        )
    return model


def _weights_of(config: Any) -> set[str]:
    """All weights of a model of several parts, those that see or hear too, with and without the prefix `model.`."""
    import transformers

    kind = getattr(transformers, (config.architectures or [""])[0], None)
    if kind is None:
        return set()
    with quiet(), torch.device("meta"):
        names = kind(config).state_dict().keys()
    return {*names, *(f"model.{name}" for name in names), *(name.removeprefix("model.") for name in names)}


def _some(keys: set[str]) -> str:
    first = sorted(keys)[:_NAMED]
    return ", ".join(first) + (", ..." if len(keys) > _NAMED else "")


def _refuse_pointers(files: list[Path]) -> None:
    for file in files:
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_LFS):
            raise DataError(
                f"{file} is a Git LFS pointer, which stands for the file that was not fetched. Run `git lfs pull` in "
                "its folder, or fetch the model with `hf download`"
            )


def _hub_error(name: str, revision: str | None, error: Exception) -> EPError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    at = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    causes = list(_chain(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return EPError(f"the hub model {at} is gated: accept its terms on the hub and log in (`hf auth login`).")
    if any(isinstance(cause, RepositoryNotFoundError | RevisionNotFoundError) for cause in causes):
        return EPError(f"the hub has no model {at} that you may read. {_choices()}")
    return ResourceError(
        f"the hub model {at} is not in the local hub cache and cannot be fetched (no network, HF_HUB_OFFLINE, or "
        f"not a model for text generation): {first_line(error)}. {_choices()}"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _choices() -> str:
    return (
        f"Models that need no hub: {', '.join(PACKAGED_MODELS)}; or give the path of a transformers folder or a "
        ".gguf file."
    )
