"""Acting while a model writes: what hooks cost, and how fast prompts are answered in batches.

Qwen2.5-Coder-0.5B-Instruct answers 100 chat prompts of 10 to 30 words with 32 tokens each. Sides, in turn on the
same prompts: plain; one direction ablated at one site; the same everywhere (as `ablate_everywhere` does, with 49
hooks). Nothing ends before its 32 tokens, so all sides write as many.
"""

from __future__ import annotations

import itertools
import random
from functools import partial

import torch

from exemplar_partitioning.act.edits import off, orthonormal
from exemplar_partitioning.models.generate import generate
from exemplar_partitioning.models.hooks import applied
from exemplar_partitioning.models.load import load_model

from . import data
from .measure import Row, alternate, arguments, write

MODEL, TOKENS = "qwen2.5-coder-0.5b-instruct", 32
WRITES = ("attn_out_post", "mlp_out_post")


def prompts(count: int) -> list[str]:
    """Questions about words of the benchmarks' text."""
    rng = random.Random(0)
    words = [word for text in itertools.islice(data.documents(), 50) for word in text.split() if word.isalpha()]
    return [f"What have these in common: {' '.join(rng.sample(words, rng.randint(5, 25)))}?" for _ in range(count)]


def main() -> None:
    given = arguments(__doc__)
    count, turns = (8, 1) if given.quick else (100, 3)
    asked, rows = prompts(count), []
    for dtype in ("bfloat16", "float32"):
        loaded = load_model(MODEL, dtype=dtype)
        loaded.model.generation_config.eos_token_id = None
        d = loaded.info.d_model
        edit = off(orthonormal(torch.randn(1, d, generator=torch.Generator().manual_seed(0))), torch.zeros(d))
        everywhere = ["resid_pre.0", *(f"{point}.{i}" for i in range(loaded.info.n_layers) for point in WRITES)]

        def write_all(sites: list[str] | None, loaded=loaded, edit=edit) -> int:
            if sites is None:
                return len(generate(loaded, asked, max_new_tokens=TOKENS))
            with applied(loaded.model, edit, sites):
                return len(generate(loaded, asked, max_new_tokens=TOKENS))

        places = {"plain": None, "one site": ["resid_post.16"], "everywhere": everywhere}
        sides = {name: partial(write_all, sites) for name, sites in places.items()}
        found, _ = alternate(sides, turns)
        for name in ("one site", "everywhere"):
            rows.append(
                Row(
                    f"{dtype}, {count} prompts x {TOKENS} tokens, ablated {name}",
                    target="<= 1.05x of the time without hooks; <= 60 s",
                    ours=found[name],
                    found={
                        "times the time without hooks": round(found[name].median / found["plain"].median, 3),
                        "seconds without hooks": round(found["plain"].median, 1),
                    },
                )
            )
        write(  # after each: the second takes a while
            "generation",
            quick=given.quick,
            seed=0,
            about=__doc__ or "",
            data={"text": data.text_name(), "prompts": count, "new tokens": TOKENS},
            rows=rows,
        )


if __name__ == "__main__":
    main()
