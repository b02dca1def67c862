"""The pool's own watch over its cluster: a real socket in place of a cluster that would take minutes to die."""

import socket
import time
from types import SimpleNamespace

import pytest

from exemplar_partitioning.errors import ResourceError
from exemplar_partitioning.ray import pool


def cluster(port):
    """As much of the module ray as a pool without workers asks for."""
    method = SimpleNamespace(remote=lambda *_: object())
    actor = SimpleNamespace(remote=lambda: SimpleNamespace(where=method, prepare=method))

    def wait(refs, timeout, **_):
        time.sleep(timeout)
        return [], refs

    return SimpleNamespace(
        get_runtime_context=lambda: SimpleNamespace(gcs_address=f"127.0.0.1:{port}"),
        cluster_resources=lambda: {"CPU": 2.0},
        available_resources=lambda: {"CPU": 0.0},
        remote=lambda **_: lambda kind: actor,
        wait=wait,
        exceptions=SimpleNamespace(RayError=ConnectionError),
    )


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in (("_LOOK_SECONDS", 0.05), ("_GONE_SECONDS", 0.2), ("_PATIENCE", 0.1)):
        monkeypatch.setattr(pool, name, seconds)


def test_a_cluster_that_is_gone_or_without_room_is_said(quick, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        task = SimpleNamespace(threads=1, device="cpu")
        watched = pool.Pool(cluster(server.getsockname()[1]), 1, object, task)
        for _ in range(8):
            watched.poll(0.05)
        watched = pool.Pool(cluster(server.getsockname()[1]), 2, object, task)
        watched.hands[0].node, watched.hands[0].ready = "here", True
        for _ in range(8):
            watched.poll(0.05)
    said = capsys.readouterr().err
    assert said.count("1 of 1 workers not joined") == 1 and "waiting up to 600 s" in said
    assert said.count("1 of 2 workers not joined") == 1 and "a worker needs 1 CPU; going on without" in said
    with pytest.raises(ResourceError, match=r"is gone .*--resume"):
        for _ in range(200):
            watched.poll(0.05)


def test_auto_joins_what_ray_start_started_alone(monkeypatch, tmp_path):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ResourceError, match="no Ray cluster was started on this machine"):
        pool._started()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert pool._started() == "10.0.0.1:6379"
