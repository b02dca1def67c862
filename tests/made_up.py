"""Records of a model and a text that never were."""

from exemplar_partitioning.folder import schema as records


def model_record(name: str, *, d_model: int, vocab_size: int, n_layers: int = 3) -> records.ModelRecord:
    return records.ModelRecord(
        id=name,
        revision=None,
        architecture="LlamaForCausalLM",
        d_model=d_model,
        n_layers=n_layers,
        vocab_size=vocab_size,
        dtype="float32",
        fingerprint="f" * 64,
        tokenizer_hash="a" * 64,
        license=None,
    )


def text_record(source: str) -> records.TextRecord:
    return records.TextRecord(
        source=source, context_size=128, prepend_bos=True, bos_id=1, shuffle_buffer=10, seed=0, digest="d" * 64
    )
