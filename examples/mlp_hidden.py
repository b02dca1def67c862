"""The hidden layer of one MLP: a dictionary of it, what its regions hold, and the model steered along one.

pip install exemplar-partitioning && python examples/mlp_hidden.py
"""

import argparse
import resource
import time

import exemplar_partitioning as ep

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--model", default="smollm2-135m-instruct")
parser.add_argument("--site", default="mlp_act.15", help="or z.15, or the path of any module with :in or :out")
parser.add_argument("--max-tokens", type=int, default=20_000)
parser.add_argument("--out", default="mlp-hidden")
parser.add_argument("--prompt", default="My favourite thing about the weekend is")
asked = parser.parse_args()

model = ep.load_model(asked.model)
ep.build(model, None, out=asked.out, sites=asked.site, percentiles=[4], max_tokens=asked.max_tokens)
ep.annotate(asked.out, model=model, max_tokens=asked.max_tokens)
d = ep.load(asked.out, site=asked.site, percentile=4)
print(f"{d.k} regions of activations {d.d_model} wide at {d.config.site.module_path or d.config.site.name}")

annotation = d.annotation
sizes = annotation.regions["members"].to_numpy()
for region in sizes.argsort()[::-1][:8].tolist():
    tokens = [row["token"] for row in annotation.region(region)["top_tokens"][:6]]
    print(f"region {region:>4}: {sizes[region]:>5} members, tokens {tokens}")

region = int(sizes.argsort()[-20])
for alpha in (0.0, 0.5):
    with ep.steer(model, d, region, alpha=alpha):
        ids = model.tokenizer(model.tokenizer.bos_token + asked.prompt, return_tensors="pt")
        written = model.model.generate(**ids, max_new_tokens=20, do_sample=False)
    print(f"steered by {alpha} along region {region}: {model.tokenizer.decode(written[0], skip_special_tokens=True)!r}")

usage = resource.getrusage(resource.RUSAGE_SELF)
print(f"{time.process_time():.0f} s of processor time, {usage.ru_maxrss / 1e6:.1f} GB of memory at most")
