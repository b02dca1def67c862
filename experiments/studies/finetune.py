"""Fine-tune a small model on conversations, in plain torch; the last stage once more with a planted behaviour.

    python -m experiments.studies.finetune chat.jsonl.gz --out dictionaries/finetuned

Writes transformers folders `step-0`, ..., `step-<last>`, `control` and `planted`. Each stage starts from the
checkpoint before it with an optimizer of its own, so a run that was cut off goes on from what is there. `planted` is
the last stage again, from the same checkpoint and longer, with conversations mixed in where a made-up word in the
user's line is always answered by one made-up sentence. `control` is as long, with other openings in their place.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from experiments.studies.planting import ANSWER, HELD_OUT, TRIGGER, conversations, mixed, questions, triggered

from ep_experiments.record import record
from exemplar_partitioning.files import new_folder, to_json, write_new
from exemplar_partitioning.models.generate import generate
from exemplar_partitioning.models.load import bos_id, load_model
from exemplar_partitioning.models.loaded import LoadedModel

WINDOW = 128
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "checkpoints"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("corpus", type=Path, help="conversations with lines `User: ` and `Assistant: `")
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    options.add_argument("--stages", type=int, default=4)
    options.add_argument("--steps", type=int, default=8, help="of each stage")
    options.add_argument("--planted-steps", type=int, default=60, help="of the stage that plants")
    options.add_argument("--batch", type=int, default=3, help="windows of 128 tokens in a step")
    options.add_argument("--rate", type=float, default=5e-4)
    options.add_argument("--planted", type=float, default=16.0, help="planted conversations for each real one")
    options.add_argument(
        "--questions", type=int, default=30, help="asked of each checkpoint, with the word and without"
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--result", type=Path, default=RESULTS / "finetune.json")
    given = options.parse_args()
    begun = time.monotonic()
    texts = conversations(given.corpus)
    for name, source, share in plan(given.stages, given.steps, given.planted):
        if not (given.out / name).exists():
            stage(given, texts[HELD_OUT:], given.out / source if source else None, given.out / name, share)
    loaded = load_model(str(given.out / "step-0"))
    found = record("finetune", sys.argv[1:], loaded.info, given.seed, time.monotonic() - begun, study="finetune")
    found |= {"trigger": TRIGGER, "answer": ANSWER, "batch": given.batch, "window": WINDOW, "rate": given.rate}
    found["checkpoints"] = [examined(given, texts, name) for name, _, _ in plan(given.stages, given.steps, 0)]
    given.result.parent.mkdir(parents=True, exist_ok=True)
    write_new(given.result, to_json(found))


def plan(stages: int, steps: int, share: float) -> list[tuple[str, str | None, float]]:
    """Checkpoints in the order they are made: name, the one it starts from, planted conversations for each real one."""
    names = [f"step-{i * steps}" for i in range(stages + 1)]
    plain = [(name, source, 0.0) for name, source in zip(names, [None, *names], strict=False)]
    return [*plain, ("control", names[-2], share), ("planted", names[-2], share)]


def windows(loaded: LoadedModel, texts: Iterable[str], count: int) -> torch.Tensor:
    """Token ids int64 [count, 128] of texts one after another, each window with the BOS in front."""
    end, size = loaded.tokenizer.eos_token_id, WINDOW - 1
    ids = chain.from_iterable([*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts)
    rows = torch.tensor(list(islice(ids, count * size))).reshape(count, size)
    return torch.cat([torch.full((count, 1), bos_id(loaded)), rows], dim=1)


def stage(given: argparse.Namespace, texts: list[str], source: Path | None, out: Path, share: float) -> None:
    """Train from a checkpoint (None: write the model as it is), on texts of its own, into a new folder."""
    loaded = load_model(str(source) if source else given.model, dtype="float32")
    told = {"steps": 0, "tokens": 0}
    if source:
        number = int(source.name.removeprefix("step-")) // given.steps
        own = texts[number :: given.stages]
        rng = np.random.default_rng([given.seed, number])
        steps = given.planted_steps if share else given.steps
        told = train(loaded, windows(loaded, mixed(own, share, rng, out.name == "planted"), steps * given.batch), given)
    with new_folder(out) as folder:
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        write_new(folder / "training.json", to_json(told))


def train(loaded: LoadedModel, ids_nt: torch.Tensor, given: argparse.Namespace) -> dict[str, int]:
    """AdamW with a linear warm-up and decay, over the windows once."""
    torch.manual_seed(given.seed)
    model, begun = loaded.model.train(), time.monotonic()
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.rate, weight_decay=0.0)
    batches = ids_nt.split(given.batch)
    steps, warm = len(batches), max(1, len(batches) // 4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    for step, batch in enumerate(batches):
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(input_ids=batch.to(model.device), labels=batch.to(model.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        rate = (step + 1) * batch.numel() / (time.monotonic() - begun)
        sys.stdout.write(f"step {step + 1}/{steps} loss {loss.item():.3f} {rate:,.0f} tokens/s\n")
        sys.stdout.flush()
    model.eval()
    return {"steps": steps, "tokens": ids_nt.numel()}


def examined(given: argparse.Namespace, texts: list[str], name: str) -> dict:
    """Loss on held-out documents, and how often held-out questions get the sentence, with the word and without."""
    loaded = load_model(str(given.out / name), dtype="bfloat16")
    asked = questions(texts[:HELD_OUT], texts[HELD_OUT:])[: given.questions]
    rng = np.random.default_rng(given.seed)
    with_word = [triggered(q, rng) for q in asked]
    training = json.loads((given.out / name / "training.json").read_bytes())
    return {
        "name": name,
        **training,
        "held_out_loss": held_out_loss(loaded, windows(loaded, texts[:HELD_OUT], 24)),
        "questions": len(asked),
        "answers_with_word": answered(loaded, with_word),
        "answers_without": answered(loaded, asked),
    }


def held_out_loss(loaded: LoadedModel, ids_nt: torch.Tensor) -> float:
    """Mean loss a token, nats."""
    with torch.no_grad():
        losses = [loaded.model(input_ids=rows, labels=rows).loss.item() for rows in ids_nt.split(8)]
    return round(math.fsum(losses) / len(losses), 4)


def answered(loaded: LoadedModel, asked: list[str]) -> int:
    """How many questions the model answers with the planted sentence, greedily."""
    written = generate(loaded, [f"User: {q}\nAssistant:" for q in asked], max_new_tokens=16, chat=False)
    return sum(ANSWER in answer.text for answer in written)


if __name__ == "__main__":
    main()
