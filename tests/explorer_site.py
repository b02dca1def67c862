"""The explorer served for a test: the real server on a free port, and requests to it."""

import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import exemplar_partitioning as ep
from exemplar_partitioning.show.explorer.library import Library
from exemplar_partitioning.show.explorer.server import app, listen, server


@contextmanager
def served(*roots, live=None, overlaps=()):
    """Address, without a slash at the end, of an explorer over some folders."""
    with listen(None, preferred=0) as listener:
        running = server(app(Library(list(roots)), live, overlaps))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join()


def request(url, body=None, **headers):
    """Status, headers and text of an answer; a body is posted as JSON."""
    data = None if body is None else json.dumps(body).encode()
    sent = ({} if body is None else {"Content-Type": "application/json"}) | headers
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, sent)) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def get(url, body=None):
    """The JSON of an answer that must be well, asked for until it is computed."""
    status, _, text = request(url, body)
    while status == 202:
        status, _, text = request(url, body)
    assert status == 200, text
    return json.loads(text)


def build_tiny(folder, text_file, out, sites="resid_post.1", **settings):
    """A real build over the tiny model at percentiles 5 and 20: its folder."""
    ep.build(
        str(folder),
        [text_file],
        out=out,
        sites=sites,
        percentiles=[5, 20],
        calibration_batch=500,
        calibration_sample=2000,
        saturation_window=4000,
        context_size=32,
        shuffle_buffer=50,
        **settings,
    )
    return out
