"""Whose turn it is with the live model, and clients that go away in the middle."""

import json
import socket
import struct
import threading
import time
import urllib.parse

import pytest

from annotated import annotated
from exemplar_partitioning.errors import ResourceError
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.model import model_of
from exemplar_partitioning.show.explorer.live import LIMIT, Live
from exemplar_partitioning.show.explorer.turns import MOST, CalledOff, Job, Turns
from explorer_site import build_tiny, get, request, served

LONG = "the old dog sings under a stone and knows the river. " * 370


def test_turns_come_in_order_and_a_long_job_lets_others_in_between():
    turns, order, begun = Turns(), [], threading.Event()

    def long():
        job = Job()
        with turns.turn(job):
            begun.set()
            for part in range(3):
                while part == 0 and len(turns._queue) < 3:
                    time.sleep(0.001)
                order.append(f"long {part}")
                turns.pass_on(job)

    def short(name):
        begun.wait()
        with turns.turn(Job()):
            order.append(name)

    threads = [threading.Thread(target=long), *(threading.Thread(target=short, args=(name,)) for name in "ab")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[0] == "long 0" and sorted(order[1:3]) == ["a", "b"] and order[3:] == ["long 1", "long 2"]
    assert not turns._queue


def test_the_newest_of_a_page_calls_off_the_ones_before():
    turns, old, other = Turns(), Job("page"), Job("another")
    with turns.turn(old):
        done = []
        waiting = threading.Thread(target=lambda: [done.append(1) for _ in [turns.turn(Job("page")).__enter__()]])
        waiting.start()
        while len(turns._queue) < 2:
            time.sleep(0.001)
        with pytest.raises(CalledOff):
            turns.pass_on(old)
        other.check()
        turns._queue.append(old)  # as `turn` leaves it
    waiting.join()
    assert done


def test_only_so_many_wait():
    turns = Turns()
    turns._queue = [Job() for _ in range(MOST)]
    with pytest.raises(ResourceError, match="wait for the model"), turns.turn(Job()):
        pass
    assert len(turns._queue) == MOST


@pytest.fixture(scope="module")
def live(tiny_folder, text_file, tmp_path_factory):
    """Address of a dictionary with its tiny model, and the passes that the model has made."""
    out = build_tiny(tiny_folder, text_file, tmp_path_factory.mktemp("live") / "out")
    live = Live(model_of(store.load(out, percentile=5), str(tiny_folder)))
    passes: list[int] = []
    live.loaded.model.register_forward_pre_hook(lambda *_: passes.append(1))
    with served(out, live=live) as address:
        yield f"{address}/api/dictionaries/resid_post.1-p5", passes


def test_what_a_page_asked_before_is_dropped(live):
    url, passes = live
    whole = get(f"{url}/read", {"text": LONG[:LIMIT]})
    needed, found = len(passes), {}
    passes.clear()
    old = threading.Thread(
        target=lambda: found.update(old=request(f"{url}/read", {"text": LONG[:LIMIT]}, **{"X-Page": "a"}))
    )
    old.start()
    while not passes:
        time.sleep(0.001)
    answer = request(f"{url}/read", {"text": "the old dog"}, **{"X-Page": "a"})
    old.join()
    assert answer[0] == 200 and found["old"][0] == 409 and "newer" in found["old"][2]
    assert len(passes) < needed
    assert get(f"{url}/read", {"text": LONG[:LIMIT]}) == whole


def test_work_for_a_client_that_is_gone_ends(live):
    url, passes = live
    get(f"{url}/read", {"text": LONG[:LIMIT]})
    needed = len(passes)
    passes.clear()
    connection = _sent(url, "/read", json.dumps({"text": LONG[:LIMIT]}).encode())
    while not passes:
        time.sleep(0.001)
    connection.close()
    assert get(f"{url}/read", {"text": "the old dog"})["tokens"]
    time.sleep(0.3)
    assert len(passes) < needed


def _sent(url, path, body, length=None):
    place = urllib.parse.urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port))
    head = f"POST {place.path}{path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    connection.sendall(head.encode() + f"Content-Length: {length or len(body)}\r\n\r\n".encode() + body)
    return connection


def test_clients_that_hang_up_leave_no_trace(tmp_path, capfd, caplog):
    annotated(tmp_path / "build", k=200, percentiles=(2,))
    with served(tmp_path / "build") as address:
        url = f"{address}/api/dictionaries/resid_post.1-p2"
        for case in range(60):
            path = ("/regions/3/label", "/read", "/steer")[case % 3]
            connection = _sent(url, path, b'{"text": "half', length=4000 if case % 2 else 14)
            if case % 4 < 2:  # at once, by a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        for _ in range(20):
            place = urllib.parse.urlsplit(url)
            connection = socket.create_connection((place.hostname, place.port))
            connection.sendall(f"GET {place.path}/regions?limit=200 HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
            connection.close()
        assert get(url)["key"]
    assert "Traceback" not in capfd.readouterr().err and not caplog.records
