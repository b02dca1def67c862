"""The command `ep` as people and programs run it: real processes, exit codes, one message per error."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import exemplar_partitioning as ep
from conftest import tree

BUILD = ["--site", "resid_post.1", "--percentile", "2,10", "--calibration-batch", "500", "--context-size", "32"]


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "exemplar_partitioning", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "HF_HUB_OFFLINE": "1"} | environment,
    )


@pytest.fixture(scope="module")
def built(tiny_folder, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "out"
    return out, run("build", tiny_folder, text_file, *BUILD, "--out", out)


def test_build_ends_by_telling_what_to_do_next(built):
    out, done = built
    assert done.returncode == 0, done.stderr
    assert f"ep show {out}" in done.stdout and "ep.load" in done.stdout
    assert "2 dictionaries" in done.stdout and "resid_post.1" in done.stdout
    assert "Traceback" not in done.stderr


def test_what_it_says_about_python_is_true(built):
    out, done = built
    line = next(line for line in done.stdout.splitlines() if "ep.load" in line)
    scope = {"ep": ep}
    exec(line.strip(), scope)
    assert scope["d"].path == out / "resid_post.1" / "p10"


def test_show(built):
    out, _ = built
    shown = run("show", out)
    assert shown.returncode == 0, shown.stderr
    assert "resid_post.1 percentile 2: most telling of" in shown.stdout and "corpus.jsonl:" in shown.stdout
    d = ep.load(out, percentile=10)
    one = json.loads(run("show", out, "--percentile", "10", "--top", "3", "--json").stdout)
    assert [entry["config"]["calibration"]["percentile"] for entry in one] == [10]
    biggest = one[0]["biggest_regions"]
    members = sorted(d.annotation.regions.column("members").to_pylist(), reverse=True)
    assert [row["members"] for row in biggest] == members[:3]
    assert d.region(biggest[0]["region"]).items() <= biggest[0].items()


def test_build_annotates_unless_told_not_to(built, tiny_folder, text_file, tmp_path):
    out, _ = built
    assert ep.load(out, percentile=2).annotation.record.text.source == "corpus.jsonl"
    done = run("build", tiny_folder, text_file, *BUILD, "--out", tmp_path / "o", "--no-annotate")
    assert done.returncode == 0, done.stderr
    bare = {name: data for name, data in tree(out).items() if "annotation" not in name}
    assert tree(tmp_path / "o") == bare
    shown = run("show", tmp_path / "o", "--percentile", "10")
    assert shown.returncode == 0 and "online count" in shown.stdout


def test_json_events(tiny_folder, text_file, tmp_path):
    done = run("build", tiny_folder, text_file, *BUILD, "--out", tmp_path / "o", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start" and {"progress", "calibrated", "checkpoint"} <= set(kinds)
    assert kinds[kinds.index("done") + 1] == "annotate-start" and kinds[-1] == "annotate-done"
    tokens = [event["tokens"] for event in events if event["event"] in ("progress", "done")]
    assert tokens == sorted(tokens)
    last = events[kinds.index("done")]["dictionaries"]
    assert [d["percentile"] for d in last] == [2, 10] and all(d["stopped"] for d in last)


def test_interrupt_saves_and_resume_ends_the_same(built, tiny_folder, text_file, tmp_path):
    command = ["build", tiny_folder, text_file, *BUILD, "--out", tmp_path / "o"]
    with subprocess.Popen(
        [sys.executable, "-m", "exemplar_partitioning", *map(str, command), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout and process.stderr
        for line in process.stdout:
            if json.loads(line)["event"] == "progress":
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        assert process.wait(timeout=60) == 130
        assert "--resume" in process.stderr.read()
    assert run("show", tmp_path / "o").returncode == 2
    again = run(*command, "--resume")
    assert again.returncode == 0, again.stderr
    assert tree(tmp_path / "o") == tree(built[0])


def test_what_is_wrong_in_a_request_is_said_before_weights_are_read(tiny_folder, text_file, tmp_path, ep_main):
    """The weights here are none: whoever reads them first says so."""
    model = tmp_path / "weightless"
    shutil.copytree(tiny_folder, model)
    (model / "model.safetensors").write_bytes(b"no weights")
    (tmp_path / "taken").write_text("a file")
    for wrong, said in (
        ([tmp_path / "missing.txt"], "missing.txt"),
        ([text_file, "--site", "resid_post.9"], "resid_post.9"),
        ([text_file, "--context-size", "100000"], "context size"),
        ([text_file, "--out", tmp_path / "taken"], "is a file"),
    ):
        out = [] if "--out" in wrong else ["--out", tmp_path / "o"]
        code, _, shown = ep_main("build", model, *wrong, *out)
        assert (code, said in shown, "weightless" in shown) == (2, True, False), shown
    assert ep_main("build", model, text_file, "--out", tmp_path / "o")[0] == 3


def test_errors_are_one_message_and_a_code(built, tiny_folder, text_file, tmp_path, ep_main):
    """Two in processes of their own, the others as `ep` ends here."""
    out = tmp_path / "o"
    (tmp_path / "binary.txt").write_bytes(b"\x00\xff\xfe" * 50)
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "short.txt").write_text("dog")
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    base = ["build", tiny_folder]
    cases = [
        ([*base, text_file, "--site", "resid_post.9"], 2, "resid_post.9"),
        ([*base, text_file, "--percentile", "0,5"], 2, "percentile"),
        ([*base, text_file, "--percentile", "2", "--percentile=5"], 2, "given twice"),
        ([*base, text_file, "--field", "title", "--field", "body"], 2, "--field title+body"),
        ([*base, text_file, "--max-tokens", "many"], 2, "many"),
        ([*base, tmp_path / "missing.txt"], 2, "missing.txt"),
        ([*base, tmp_path / "binary.txt"], 2, "no text to read"),
        ([*base, tmp_path / "binary.txt", "--strict"], 3, "binary.txt"),
        ([*base, tmp_path / "latin.txt", "--strict"], 3, "latin.txt"),
        ([*base, tmp_path / "short.txt"], 2, "distances need 2"),
        ([*base, tmp_path / "bad.jsonl"], 3, "bad.jsonl"),
        ([*base, text_file, "--dtype", "float8"], 2, "float8"),
        ([*base, text_file, "--device", "cuda"], 4, "cuda"),
        (["build", tmp_path / "no-model", text_file], 2, "no-model"),
        (["show", tmp_path], 2, "holds no dictionary"),
        (["show", built[0], "--percentile", "3"], 2, "resid_post.1/p2"),
    ]
    for number, (arguments, code, word) in enumerate(cases):
        line = [*map(str, arguments), *(["--out", str(out)] if arguments[0] == "build" else [])]
        if number in (0, 7):
            done = run(*line)
            ended, said = done.returncode, done.stderr
        else:
            ended, _, said = ep_main(*line, columns=120)
        assert (ended, word in said) == (code, True), (arguments, ended, said)
        assert "Traceback" not in said
        assert not out.exists()


def test_a_full_disk(tiny_folder, text_file, tmp_path):
    """A file-size limit stands in for the disk: the write fails, what was there stays whole, --resume goes on."""
    command = f"ulimit -f 8; exec {sys.executable} -m exemplar_partitioning build " + " ".join(
        map(str, [tiny_folder, text_file, *BUILD, "--out", tmp_path / "o"])
    )
    done = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; {command}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert run("build", tiny_folder, text_file, *BUILD, "--out", tmp_path / "o", "--resume").returncode == 0


def test_too_little_address_space(built):
    command = f"ulimit -v 600000; exec {sys.executable} -m exemplar_partitioning show {built[0]}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (4, "")
    assert "585 MB of address space are allowed here" in done.stderr and "ulimit -v" in done.stderr


def test_importing_is_light():
    """No transformers, torch or pyarrow before they are needed; the core needs no transformers at all."""
    code = (
        "import sys, exemplar_partitioning as ep\n"
        "assert not {'torch', 'transformers', 'pyarrow', 'sklearn'} & set(sys.modules)\n"
        "ep.Dictionary, ep.LeaderClustering, ep.calibrate, ep.load\n"
        "assert not {'transformers', 'sklearn', 'typer', 'huggingface_hub'} & set(sys.modules)\n"
        "assert set(ep.__all__) <= set(dir(ep)) and all(getattr(ep, name) for name in ep.__all__)\n"
    )
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - begun < 60


def test_help_and_version():
    assert run("--version").stdout.strip() == f"exemplar-partitioning {ep.__version__}"
    assert "build" in run("--help").stdout
    assert "--resume" in run("build", "--help").stdout
