"""A LoRA against its base: a dictionary of each on the same text, and which regions the adapter dropped or introduced.

    pip install exemplar-partitioning peft && python examples/lora_against_base.py [ADAPTER]

Without the folder of an adapter, one is trained for a minute: it learns to write capitals.
"""

import argparse
import resource
import time
from pathlib import Path

import exemplar_partitioning as ep

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("adapter", nargs="?")
parser.add_argument("--model", default="smollm2-135m-instruct")
parser.add_argument("--site", default="resid_post.15")
parser.add_argument("--max-tokens", type=int, default=20_000)
parser.add_argument("--out", type=Path, default=Path("lora"))
asked = parser.parse_args()


def train(folder: Path) -> Path:
    """An adapter that was shown a hundred short texts in capitals."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = ep.load_model(asked.model)
    model = get_peft_model(base.model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for step in range(20):
        text = f"QUESTION {step}: WHAT IS {step} TIMES {step + 1}? THE ANSWER, IN CAPITALS, IS {step * (step + 1)}."
        ids = base.tokenizer(text, return_tensors="pt")["input_ids"]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


adapter = Path(asked.adapter) if asked.adapter else train(asked.out / "adapter")
for name, put_on in (("base", None), ("tuned", adapter)):
    loaded = ep.load_model(asked.model, adapter=put_on)
    ep.build(loaded, None, out=asked.out / name, sites=asked.site, percentiles=[4], max_tokens=asked.max_tokens)

base, tuned = (ep.load(asked.out / name, site=asked.site, percentile=4) for name in ("base", "tuned"))
matching = ep.match(base, tuned)
summary = matching.summary()
print(f"{base.k} regions of the base, {tuned.k} with the adapter; at {matching.false_alarms:.0%} false alarms:")
print(f"{summary['persisted']} persisted, {summary['dropped']} dropped, {summary['introduced']} introduced")
for row in matching.introduced_table().slice(0, 8).to_pylist():
    print(f"introduced: region {row['region_b']}, {tuned.region(row['region_b'])['context'][-50:]!r}")

usage = resource.getrusage(resource.RUSAGE_SELF)
print(f"{time.process_time():.0f} s of processor time, {usage.ru_maxrss / 1e6:.1f} GB of memory at most")
