"""Four checkpoints in a row: which regions persist while a model is tuned.

    python checkpoints.py

Tunes SmolLM2-135M-Instruct for a few steps on a poem, saves it before, and after 2, 6 and 14 steps, builds each on
the same text, and follows regions along the row.
"""

import subprocess
from pathlib import Path

import torch

import exemplar_partitioning as ep

POEM = "The moon, the tide, the silver sand: all things that shine come back to land.\n"
STEPS = (0, 2, 6, 14)


def save_checkpoints(folder: Path) -> list[Path]:
    """The model after so many steps of tuning."""
    loaded = ep.load_model("smollm2-135m-instruct")
    model, tokenizer = loaded.model, loaded.tokenizer
    ids = tokenizer(POEM * 4, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-2)
    saved, step = [], 0
    for wanted in STEPS:
        while step < wanted:
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
        place = folder / f"step-{wanted}"
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        saved.append(place)
    return saved


def main() -> None:
    """Save checkpoints, build on each, match along the row."""
    models = [part for place in save_checkpoints(Path("checkpoints")) for part in ("--model", str(place))]
    options = ["--max-tokens", "30_000", "--percentile", "8", "--calibration-batch", "4096", "--out", "row"]
    subprocess.run(["ep", "build", *models, *options], check=True)
    subprocess.run(["ep", "match", "row", "--row", "--out", "row-told"], check=True)


if __name__ == "__main__":
    main()
