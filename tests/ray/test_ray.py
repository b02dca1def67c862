"""A real Ray cluster of several processes in this machine: same bytes as one process, whoever dies (L1, L9)."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
import torch

import exemplar_partitioning as ep
from building.test_build import LONG
from conftest import sentences, tree
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.load import load_model

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
ray = pytest.importorskip("ray")

# One dictionary saturates in the stream, one ends by its unseen mass, some with the text.
OPTIONS = LONG | {"calibration_sample": 4000, "saturation_window": 3000, "until_unseen": 0.004}


@pytest.fixture(scope="module")
def cluster():
    """Room for workers; gives the address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="module")
def alone(tiny_folder, text_file, tmp_path_factory):
    """What one process builds and annotates."""
    out = tmp_path_factory.mktemp("alone") / "out"
    ep.build(str(tiny_folder), [text_file], out=out, **OPTIONS)
    ep.annotate(out, [text_file], model=str(tiny_folder))
    return out


def built(out):
    return {name: data for name, data in tree(out).items() if "/annotation/" not in name}


def workers():
    """The processes of workers of this cluster."""
    names = ("ray::BuildW", "ray::Annota")
    return [child for child in psutil.Process().children(recursive=True) if child.name().startswith(names)]


def test_three_workers(alone, cluster, tiny_folder, text_file, tmp_path):
    stopped = {d.config.build.stopped for d in map(ep.load, sorted(alone.glob("*/p*")))}
    assert len(stopped) > 1, stopped
    out = tmp_path / "out"  # by one: the tests below
    ep.build(str(tiny_folder), [text_file], out=out, ray="auto", workers=3, **OPTIONS)
    assert tree(out) == built(alone)
    ep.annotate(out, [text_file], model=str(tiny_folder), ray="auto", workers=1, checkpoint_seconds=0.0)
    assert tree(out) == tree(alone)


TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" \
           "{% if add_generation_prompt %}assistant: {% endif %}"  # fmt: skip
CHAT = {"chat": True, "prepend_bos": False}


@pytest.mark.parametrize("options", [{"pool": "mean"}, {"positions": "mask:span"}, CHAT | {"generate": 5}])
def test_tokens_that_count_are_the_same_on_workers(cluster, tiny_folder, tmp_path, options):
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    rows = [{"text": text, "span": [[0, 1 + len(text) // 2]]} for text in sentences(60, seed=3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"sites": "resid_post.1", "percentiles": [10], "annotate": True, **options}
    ep.build(str(model), tmp_path / "rows.jsonl", out=tmp_path / "alone", **asked)
    ep.build(str(model), tmp_path / "rows.jsonl", out=tmp_path / "many", ray="auto", workers=2, **asked)
    assert tree(tmp_path / "alone") == tree(tmp_path / "many")
    assert ("answers.jsonl" in tree(tmp_path / "many")) == ("generate" in options)


def test_killed_workers_leave_no_trace(alone, cluster, tiny_folder, text_file, tmp_path):
    """kill -9 while they calibrate, while they propose, while they annotate."""
    rng, killed = random.Random(0), {"build": 0, "annotate": 0}

    def kill(event):
        due = {"build": (1, 5), "annotate": (2,)}[stage]
        seen.append(event.kind)
        if seen.count("progress") in due and seen.count("progress") not in done and (there := workers()):
            done.add(seen.count("progress"))
            rng.choice(there).kill()
            killed[stage] += 1

    stage, seen, done = "build", [], set()
    ep.build(str(tiny_folder), [text_file], out=tmp_path, ray="auto", workers=2, on_event=kill, **OPTIONS)
    assert tree(tmp_path) == built(alone)
    stage, seen, done = "annotate", [], set()
    ep.annotate(tmp_path, [text_file], model=str(tiny_folder), ray="auto", workers=2, on_event=kill)
    assert tree(tmp_path) == tree(alone)
    assert killed == {"build": 2, "annotate": 1}


def _owner(folder, text, out, address):
    torch.set_num_threads(1)
    seen = []

    def die(event):
        seen.append(event.kind)
        if "calibrated" in seen and seen[seen.index("calibrated") :].count("checkpoint") == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    given = {"ray": address, "workers": 2, "checkpoint_seconds": 0.0, "on_event": die}
    ep.build(folder, [text], out=out, **given, **OPTIONS)


def test_a_killed_owner_resumes_on_ray_or_alone(alone, cluster, tiny_folder, text_file, tmp_path):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_owner, args=(str(tiny_folder), text_file, tmp_path, cluster))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    ep.build(str(tiny_folder), [text_file], out=tmp_path, resume=True, ray="auto", workers=1, **OPTIONS)
    ep.build(str(tiny_folder), [text_file], out=tmp_path.with_name("copy"), resume=True, **OPTIONS)
    assert tree(tmp_path) == tree(tmp_path.with_name("copy")) == built(alone)


def test_another_configuration_is_refused_on_resume(alone, cluster, tiny_folder, text_file):
    with pytest.raises(EPError, match="seed: 1 here, 0 there"):
        ep.build(str(tiny_folder), [text_file], out=alone, resume=True, ray="auto", **OPTIONS | {"seed": 1})


def test_another_model_is_refused(cluster, tiny_folder, text_file, tmp_path):
    """The weights where the workers look are not those that the owner has."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    loaded = load_model(str(folder))
    other = load_model(str(folder)).model
    with torch.no_grad():
        other.get_input_embeddings().weight[5] += 1
    other.save_pretrained(folder)
    with pytest.raises(EPError, match=r"worker on .* would not compute .*model \w{12} there, \w{12} here"):
        ep.build(loaded, [text_file], out=tmp_path / "out", ray="auto", workers=1, **OPTIONS)
    assert not (tmp_path / "out").exists()


OTHER_VERSION = """
import sys, ray
import exemplar_partitioning as ep
address, older, model, out = sys.argv[1:]
ray.init(address, runtime_env={"env_vars": {"PYTHONPATH": older}}, log_to_driver=False, logging_level="error")
try:
    ep.build(model, ["the dog"] * 10, out=out, ray="auto", workers=1)
except ep.EPError as error:
    print(error)
"""


def test_another_version_is_refused(cluster, tiny_folder, tmp_path):
    """Workers that find an older release of the package's metadata before the installed one."""
    home = tmp_path / "older" / "exemplar_partitioning-0.0.1.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text("Metadata-Version: 2.1\nName: exemplar-partitioning\nVersion: 0.0.1\n")
    given = [cluster, str(home.parent), str(tiny_folder), str(tmp_path / "out")]
    said = subprocess.run([sys.executable, "-c", OTHER_VERSION, *given], capture_output=True, text=True)
    assert "exemplar-partitioning 0.0.1 there, 0.1.0 here" in said.stdout, said.stdout + said.stderr[-2000:]


def test_activations_that_are_not_finite_are_counted_or_refused(cluster, tiny_folder, tmp_path):
    loaded = load_model(str(tiny_folder))
    bad = loaded.tokenizer(" king", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[bad] = float("nan")
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    texts = sentences(300, seed=4)
    texts[:150] = [text.replace("king", "fox") for text in texts[:150]]
    options = LONG | {"sites": "resid_pre.0", "percentiles": (15, 40), "calibration_sample": 500, "shuffle_buffer": 0}
    ep.build(str(tmp_path / "model"), texts, out=tmp_path / "a", **options)
    ep.build(str(tmp_path / "model"), texts, out=tmp_path / "b", ray="auto", workers=1, **options)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert ep.load(tmp_path / "a", percentile=15).config.build.skipped
    with pytest.raises(EPError, match="have no direction"):
        ep.build(str(tmp_path / "model"), texts, out=tmp_path / "c", ray="auto", workers=1, strict=True, **options)
