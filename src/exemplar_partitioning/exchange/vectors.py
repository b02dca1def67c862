"""A step along regions' direction as a file that other programs add to a model's activations.

GGUF control vectors are read by llama.cpp (`--control-vector`) and by repeng (`ControlVector.import_gguf`): both add
`direction.L` to the output of block L, which is `resid_post.L`. A .safetensors file holds the vector alone.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float
from safetensors.torch import save as serialise
from torch import Tensor

from ..errors import EPError
from ..files import disk_errors, write_new
from ..folder.dictionary import StoredDictionary

FORMATS = (".safetensors", ".gguf")


def save_vector(path: str | Path, dictionary: StoredDictionary, step_d: Float[Tensor, " d"], regions: str = "") -> str:
    """Write a step as a file, by its ending `.gguf` or `.safetensors`.

    Args:
        path: a file that does not exist.
        dictionary: whose site it is for.
        step_d: in the model's own units: strength 1 in the other program is this step.
        regions: what it stands for, in words; kept in the file.

    Returns:
        How the other program takes it.

    Raises:
        EPError: another ending, a file that exists, or a site that the form does not know.
        ResourceError: the file cannot be written.
    """
    path, (point, _, number) = Path(path), dictionary.config.site.name.rpartition(".")
    if path.suffix not in FORMATS or path.exists():
        raise EPError(f"{path} must be a new file that ends in {' or '.join(FORMATS)}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    about = {"site": dictionary.config.site.name, "model": dictionary.config.model.id, "regions": regions}
    if path.suffix == ".safetensors":
        write_new(path, serialise({"direction": step_d.contiguous()}, about))
        return f'safetensors.torch.load_file("{path}")["direction"]  # to be added at {about["site"]}'
    if point != "resid_post" or (layer := int(number)) < 1:
        raise EPError(f"a GGUF control vector acts at resid_post.1 or a later block; this is for {about['site']}")
    _write_gguf(path, dictionary, layer, step_d.numpy().astype(np.float32), about)
    return f"llama-cli -m MODEL.gguf --control-vector {path} --control-vector-layer-range {layer} {layer}"


def _write_gguf(
    path: Path, dictionary: StoredDictionary, layer: int, step_d: Float[np.ndarray, " d"], about: dict[str, str]
) -> None:
    from gguf import GGUFWriter

    with disk_errors(path), TemporaryDirectory() as work:
        writer = GGUFWriter(Path(work) / path.name, "controlvector")
        hint = (dictionary.config.model.architecture or "unknown").removesuffix("ForCausalLM").lower()
        writer.add_string("controlvector.model_hint", hint)
        writer.add_uint32("controlvector.layer_count", 1)
        writer.add_description(f"{about['model']} {about['site']} {about['regions']}".strip())
        writer.add_tensor(f"direction.{layer}", step_d)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_new(path, (Path(work) / path.name).read_bytes())
