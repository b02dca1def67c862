"""Every block of a model at once: one pass of it, a dictionary of each, and which regions persist from block to block.

pip install "exemplar-partitioning[figures]" && python examples/all_layers.py
"""

import argparse
import resource
import time

import exemplar_partitioning as ep
from exemplar_partitioning.show.persistence import persistence

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--model", default="smollm2-135m-instruct")
parser.add_argument("--percentiles", type=float, nargs="+", default=[4.0])
parser.add_argument("--max-tokens", type=int, default=60_000)
parser.add_argument("--out", default="all-layers")
asked = parser.parse_args()

model = ep.load_model(asked.model)
built = ep.build(
    model, None, out=asked.out, sites="resid_post.*", percentiles=asked.percentiles, max_tokens=asked.max_tokens
)
names = [f"resid_post.{layer}" for layer in range(model.info.n_layers)]
for percentile in asked.percentiles:
    row = ep.row([ep.load(asked.out, site=name, percentile=percentile) for name in names])
    for each in row.rows()[1:]:
        print(
            f"percentile {percentile:g}, {each['name']}: {each['regions']:,} regions; of those before "
            f"{each['persisted']:,} persisted ({each['by_chance']:.0f} by chance), {each['introduced']:,} are new"
        )
    persistence(row).savefig(f"{asked.out}/persistence-{percentile:g}.svg")

usage = resource.getrusage(resource.RUSAGE_SELF)
print(f"{time.process_time():.0f} s of processor time, {usage.ru_maxrss / 1e6:.1f} GB of memory at most")
