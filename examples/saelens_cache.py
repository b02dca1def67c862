"""A cache of activations that SAELens wrote, as a dictionary.

    pip install sae-lens          # in an environment of its own
    python saelens_cache.py write     # there: SAELens writes a cache
    python saelens_cache.py build     # here: a dictionary of it

`write` caches a small random model's activations with SAELens' own runner; a cache that you have is read alike.
"""

import sys
from pathlib import Path


def write() -> None:
    """A cache of 40 sequences, as SAELens leaves it."""
    from datasets import Dataset
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig, cache_activations_runner
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    shape = {"n_layers": 2, "d_model": 32, "n_ctx": 32, "d_head": 16, "d_vocab": 128, "act_fn": "relu", "seed": 0}
    model = HookedTransformer(HookedTransformerConfig(**shape))
    texts = [{"tokens": [(7 * i + j * j) % 128 for j in range(32)]} for i in range(80)]
    Dataset.from_list(texts).save_to_disk("tokens")
    config = CacheActivationsRunnerConfig(
        dataset_path="tokens",
        model_name="tiny",
        hook_name="blocks.0.hook_resid_post",
        d_in=32,
        training_tokens=40 * 32,
        context_size=32,
        model_batch_size=4,
        buffer_size_gb=0.0001,
        new_cached_activations_path="cache",
        prepend_bos=False,
        device="cpu",
    )
    cache_activations_runner.load_model = lambda **_: model  # yours is loaded by its name
    CacheActivationsRunner(config, override_dataset=Dataset.load_from_disk("tokens")).run()


def build() -> None:
    """A dictionary of the cache, with its token ids."""
    import exemplar_partitioning as ep

    result = ep.build_from_activations(Path("cache"), out="from-saelens", percentiles=[5], annotate=True)
    (built,) = result.dictionaries
    d = ep.load("from-saelens")
    print(f"{built.n_activations:,} activations at {d.config.site.name}, {d.k} regions; "
          f"exemplar 0 is token {d.regions['token_id'][0].as_py()} of {d.regions['document'][0].as_py()}")  # fmt: skip


if __name__ == "__main__":
    {"write": write, "build": build}[sys.argv[1]]()
