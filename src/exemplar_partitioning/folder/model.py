"""The model that a dictionary was built from: loaded, and made sure of."""

from __future__ import annotations

from ..errors import EPError
from ..models.admission import same_probe
from ..models.load import load_model
from ..models.loaded import LoadedModel
from ..models.sites import named_site
from .dictionary import StoredDictionary, versions


def model_of(
    dictionary: StoredDictionary,
    model: str | LoadedModel | None = None,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """The model a dictionary was built from, loaded in its dtype; `model` tells where it is, if it has moved, or is it.

    That code of its own may run is asked for anew each time (`trust_remote_code`), whatever the dictionary records.
    Raises EPError if it cannot be found or is another one; see `check_model`.
    """
    record, site = dictionary.config.model, dictionary.config.site
    if not record.known and named_site(site.name.replace("@", ":")) is None:
        raise EPError(
            f"{dictionary.path} was built from activations of a place that is not known ({site.name}), so no model can "
            "be read there; build again and name it with --site (site=), such as resid_post.12"
        )
    if model is None and not record.known:
        raise EPError(
            f"{dictionary.path} was built from activations of a model that is not known ({record.id}); to read text, "
            "or to act on it, give the model with --model (model=)"
        )
    if isinstance(model, LoadedModel):
        loaded = model
    else:
        name = record.id if model is None else model
        try:
            dtype = record.dtype if record.known else "auto"
            loaded = load_model(name, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        except EPError as error:
            if model is not None:
                raise
            raise type(error)(
                f"the dictionary's model {record.id!r}: {error} Or say where it is with --model."
            ) from error
    check_model(dictionary, loaded)
    return loaded


def check_model(dictionary: StoredDictionary, loaded: LoadedModel) -> None:
    """Raise EPError unless the model is the one the dictionary was built from, naming what differs.

    That is its fingerprint, or, of older dictionaries, its weights; tokenizer and dtype. Another version of
    transformers may state the same configuration otherwise: then the activations of a few tokens decide alone. Of a
    model that is not known, what is known counts.
    """
    mine, theirs = dictionary.config.model, loaded.info
    named = {"tokenizer": "tokenizer_hash", "dtype": "dtype", "d_model": "d_model"}
    differing: list[str] = []
    if mine.known:
        weights = (theirs.weights or theirs.fingerprint)[:12], (mine.weights or mine.fingerprint or "")[:12]
        differing += [f"weights {weights[0]} here, {weights[1]} there"] if weights[0] != weights[1] else []
    else:
        del named["dtype"]
        if mine.tokenizer_hash in (None, "unknown"):
            del named["tokenizer"]
        if dictionary.config.site.width is not None:  # that alone is known, not how wide the stream is
            del named["d_model"]
    differing += [
        f"{what} {str(getattr(theirs, name))[:12]} here, {str(getattr(mine, name))[:12]} there"
        for what, name in named.items()
        if getattr(mine, name) != getattr(theirs, name)
    ]
    if not differing and mine.weights and mine.admission and theirs.admission:
        same_software = dictionary.config.versions.get("transformers") == versions()["transformers"]
        if same_software and mine.fingerprint != theirs.fingerprint:
            differing.append(
                f"configuration, buffers or adapters {theirs.fingerprint[:12]} here, {str(mine.fingerprint)[:12]} there"
            )
        elif not same_probe(mine.admission.probe, theirs.admission.probe, mine.dtype):
            differing.append("activations of the same tokens")
    if differing:
        if mine.admission and mine.admission.remote_code and not (theirs.admission and theirs.admission.remote_code):
            differing.append("code that came with it ran there, not here (--trust-remote-code, trust_remote_code=True)")
        raise EPError(
            f"{theirs.id} is not the model that {dictionary.path} was built from ({mine.id}): {'; '.join(differing)}"
        )
