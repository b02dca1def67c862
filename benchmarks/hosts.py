"""A build over three hosts, one of which is cut off on the way: the bytes of a single process.

The hosts are network namespaces of this machine on one bridge, each with a Ray node and an address of its own. The
first is the head and builds; each of the others has room for one worker. Once chunks are being proposed, the link of
the third goes down, for good. Needs Linux, root and `ip` (iproute2). The model is a random one of three layers; what
it measures is bytes, and the seconds until the build went on without the host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .interrupted import digest
from .measure import Row, arguments, write

HOSTS = 3
ADDRESS = "10.87.0.{}"
BRIDGE = "ep-hosts"
ROOT = Path(__file__).parent.parent
# a host counts as gone after three silent seconds
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # nobody else is in these namespaces
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
OPTIONS = [
    *("--site", "resid_post.0,resid_post.1", "--percentile", "2,10", "--no-annotate", "--threads", "1"),
    *("--calibration-batch", "500", "--calibration-sample", "4000", "--saturation-window", "1_000_000"),
    *("--context-size", "32", "--json"),
]


def run(*words: str, check: bool = True) -> None:
    subprocess.run(words, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def inside(host: int, *words: str) -> list[str]:
    """A command in the namespace of a host."""
    return ["ip", "netns", "exec", f"ep-host-{host}", *words]


def wire() -> None:
    """Namespaces, and a bridge between them."""
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "link", "set", BRIDGE, "up")
    for host in range(1, HOSTS + 1):
        name = f"ep-host-{host}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"ep-veth-{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"ep-veth-{host}", "master", BRIDGE, "up")
        run(*inside(host, "ip", "addr", "add", ADDRESS.format(host) + "/24", "dev", "eth0"))
        run(*inside(host, "ip", "link", "set", "eth0", "up"))
        run(*inside(host, "ip", "link", "set", "lo", "up"))


def unwire() -> None:
    for host in range(1, HOSTS + 1):
        run("ip", "netns", "del", f"ep-host-{host}", check=False)
        run("ip", "link", "del", f"ep-veth-{host}", check=False)
    run("ip", "link", "del", BRIDGE, check=False)


def start(host: int, temporary: Path) -> subprocess.Popen:
    """A Ray node on a host; it ends with its process here."""
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        f"--node-ip-address={ADDRESS.format(host)}",
    ]
    if host == 1:
        command += ["--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={temporary}"]
    else:
        command += [f"--address={ADDRESS.format(1)}:6379", "--num-cpus=1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(inside(host, *command), env=os.environ | ENVIRONMENT, start_new_session=True, **quiet)


def main() -> None:
    given = arguments(__doc__)
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import sentences, tiny_llama

    nodes: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory(prefix="ep") as folder:
        home = Path(folder)
        model, text = tiny_llama(home / "model"), home / "text.jsonl"
        texts = sentences(2000 if given.quick else 6000, seed=1)
        text.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
        build = [sys.executable, "-m", "exemplar_partitioning", "build", str(model), str(text), *OPTIONS]
        subprocess.run([*build, "--out", str(home / "alone")], check=True, stdout=subprocess.DEVNULL)
        unwire()
        try:
            wire()
            for host in range(1, HOSTS + 1):
                nodes.append(start(host, home / "ray"))
                time.sleep(15 if host == 1 else 5)
            out = home / "hosts"
            command = inside(1, *build, "--out", str(out), "--ray", f"{ADDRESS.format(1)}:6379", "--workers", "2")
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT)
            assert process.stdout is not None
            cut, silent, last = 0.0, 0.0, time.monotonic()
            for line in process.stdout:
                event, now = json.loads(line), time.monotonic()
                if cut:
                    silent = max(silent, now - last)
                last = now
                if not cut and event["event"] == "progress" and event["dictionaries"]:
                    run("ip", "link", "set", f"ep-veth-{HOSTS}", "down")
                    cut = now
            assert process.wait() == 0 and cut
            record = json.loads((out / "build.json").read_text())["ray"]
            found = {
                "sha256": digest(out),
                "workers lost": record["workers_lost"],
                "longest silence, s": round(silent, 1),
            }
            alone = digest(home / "alone")
        finally:
            for node in nodes:
                os.killpg(node.pid, 9)
                node.wait()
            unwire()
    rows = [
        Row("one process", found={"sha256": alone}),
        Row("two workers on hosts of their own, one cut off", found=found),
    ]
    data = {"text": "random words", "documents": len(texts), "options": " ".join(OPTIONS)}
    write("hosts", quick=given.quick, seed=0, about=__doc__ or "", data=data, rows=rows)
    assert found["sha256"] == alone and found["workers lost"], "the builds differ, or no host was lost"


if __name__ == "__main__":
    main()
