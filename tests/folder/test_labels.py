"""Labels: kept, never lost, made from tokens; and asked of a real server that speaks the protocol."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest

from annotated import EMPTY, HOSTILE, annotated
from exemplar_partitioning.annotating import endpoint, local, questions
from exemplar_partitioning.errors import DataError, EPError, ResourceError
from exemplar_partitioning.files import unsealed
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.concepts import held_out
from exemplar_partitioning.folder.labels import LIMIT, MADE, Label, Labels
from exemplar_partitioning.folder.token_labels import automatic

EXEMPLAR = {"token_id": 9, "token": " king", "context": "so said the old grey"}


@pytest.fixture
def d(tmp_path):
    return annotated(tmp_path, percentiles=(2,))[0]


@pytest.fixture
def ep_label(ep_main):
    return partial(ep_main, "label")


def counted(**counts):
    return [
        {"token_id": i, "token": token.replace("_", " "), "count": count, "lift": 5.0}
        for i, (token, count) in enumerate(counts.items())
    ]


def promoted(*tokens):
    return [
        {"token_id": i, "token": token, "probability": 0.1 / (i + 1), "lift": 3.0} for i, token in enumerate(tokens)
    ]


def evidence(members, tokens, before=(), lens=(), mean_lens=()):
    return {
        "members": members,
        "top_tokens": tokens,
        "before_tokens": list(before),
        "lens_top": promoted(*lens),
        "mean_lens_top": promoted(*mean_lens),
    }


def test_hand_before_endpoint_before_tokens(d):
    labels = Labels.read(d)
    assert [label.source for label in labels.all(7)] == ["contrast", "tokens"]
    labels.add([Label(region=7, text="from a model", source="endpoint:m", prompt="0" * 64)])
    labels.set(7, "  mine,\n on two lines ")
    again = Labels.read(store.load(d.path))
    assert [(label.source, label.text) for label in again.all(7)][:2] == [
        ("hand", "mine, on two lines"),
        ("endpoint:m", "from a model"),
    ]
    assert again.best(7).text == "mine, on two lines" == again.every()[7].text
    again.set(7, " ")
    assert again.best(7).source == "endpoint:m"


def test_all_at_once_is_the_same_as_one_by_one(d):
    labels = Labels.read(d)
    labels.set(3, "three")
    assert labels.every() == [labels.best(region) for region in range(d.k)]
    assert labels.every() == Labels.read(store.load(d.path)).every()


def test_the_file_does_not_depend_on_the_order_of_labelling(d):
    said = [(4, "four"), (100, "hundred"), (11, "eleven")]
    written = []
    for order in (said, said[::-1]):
        (d.path / "labels.json").unlink(missing_ok=True)
        labels = Labels.read(d)
        for region, text in order:
            labels.set(region, text)
        written.append((d.path / "labels.json").read_bytes())
    assert written[0] == written[1]
    assert [entry["region"] for entry in json.loads(written[0])["labels"]] == [4, 11, 100]


def test_labels_are_no_part_of_the_dictionary(d):
    before = d.content_id
    Labels.read(d).set(0, "zero")
    assert store.load(d.path).content_id == before


def test_what_cannot_be_a_label(d):
    labels = Labels.read(d)
    labels.set(0, "x" * LIMIT)
    with pytest.raises(EPError, match="at most 200 characters; this one has 201"):
        labels.set(0, "x" * (LIMIT + 1))
    for region in (-1, d.k):
        with pytest.raises(EPError, match="regions are numbered 0 to 119"):
            labels.set(region, "nobody")
    labels.set(1, "half a character: \udcff")
    assert Labels.read(d).best(1).text == "half a character: ?"


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "cannot be read as JSON"),
        ("[]", "JSON object"),
        ('{"format": "other"}', "does not hold labels"),
        (lambda good: good | {"schema_version": "2.0"}, "schema_version"),
        (lambda good: good | {"dictionary": "0" * 64}, "of the dictionary 0000"),
        (lambda good: good | {"labels": [{"region": 1, "text": "", "source": "hand"}]}, "labels.0.text"),
        (lambda good: good | {"labels": [{"region": 1, "text": "a", "source": "rumour"}]}, "labels.0.source"),
        (lambda good: good | {"labels": [{"region": 120, "text": "a", "source": "hand"}]}, "region 120"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_kept(d, content, said):
    labels, path = Labels.read(d), d.path / "labels.json"
    labels.set(0, "zero")
    path.write_text(content if isinstance(content, str) else json.dumps(content(unsealed(path))))
    kept = path.read_bytes()
    with pytest.raises(DataError, match=re.escape(said)):
        Labels.read(d)
    with pytest.raises(DataError, match=re.escape(said)):
        labels.set(1, "one")
    assert path.read_bytes() == kept


def _label_some(path, regions):
    labels = Labels.read(store.load(path))
    for region in regions:
        labels.set(region, f"by {os.getpid()}")


def test_two_who_label_at_once_lose_nothing(d):
    context = get_context("spawn")
    writers = [context.Process(target=_label_some, args=(d.path, range(i, 40, 2))) for i in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    said = {region: Labels.read(d).best(region) for region in range(40)}
    assert all(label.source == "hand" for label in said.values())
    assert {label.text for label in said.values()} == {f"by {writer.pid}" for writer in writers}


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs another user, or permissions")
def test_a_folder_that_cannot_be_written():
    """As another user where the tests run as root, whom permissions do not stop."""
    with tempfile.TemporaryDirectory() as place:
        d = annotated(place, percentiles=(2,))[0]
        mine = os.geteuid()
        for folder in [Path(place), *(p for p in Path(place).rglob("*") if p.is_dir())]:
            folder.chmod(0o555)
        try:
            os.seteuid(65534 if mine == 0 else mine)
            with pytest.raises(ResourceError, match="is read-only"):
                Labels.read(d).set(0, "zero")
        finally:
            os.seteuid(mine)
            for folder in [Path(place), *(p for p in Path(place).rglob("*") if p.is_dir())]:
                folder.chmod(0o755)
        assert Labels.read(d).best(0).source in MADE


def test_one_token_is_quoted_with_its_share():
    row = evidence(100, counted(_the=80, The=12, _a=8), counted(_of=40, _in=15, _on=12, _at=5))
    assert automatic(row, EXEMPLAR) == "“the” 92% after “of” “in”"


def test_many_tokens_are_listed_with_what_they_promote():
    row = evidence(
        100,
        counted(_dog=12, _fox=10, _cat=9, _rare=1),
        lens=[" barks", " runs", "ning"],
        mean_lens=["ning", " firehose", " runs", " sleeps", " barks"],
    )
    assert automatic(row, EXEMPLAR) == "“dog” “fox” “cat” → “runs” “barks”"
    assert automatic(row, EXEMPLAR, common={" runs"}) == "“dog” “fox” “cat” → “barks”"


@pytest.mark.parametrize(
    "token, shown",
    [
        (" ", "“␣”"),
        ("    ", "“␣” × 4"),
        ("\n\n", "“↵↵”"),
        ("\u200b", "“U+200B”"),
        ("\u202e", "“U+202E”"),
        ("\ufffd", "token 9"),
        ("", "token 9"),
        (" ,", "“,”"),
        ("a\x1b[31m", "“a\ufffd[31m”"),
        ("=" * 64, "“" + "=" * 19 + "…”"),
    ],
)
def test_tokens_that_cannot_be_seen_are_named(token, shown):
    assert automatic(None, {"token_id": 9, "token": token, "context": ""}) == shown
    row = evidence(10, [{"token_id": 9, "token": token, "count": 9, "lift": 2.0}])
    assert automatic(row, EXEMPLAR) == f"{shown} 90%"


def test_without_members_or_annotation_the_exemplar_is_the_label(d, tmp_path):
    assert automatic(None, EXEMPLAR) == "“king” after “so said the old grey”"
    assert automatic(evidence(0, []), EXEMPLAR) == "“king” after “so said the old grey”"
    assert automatic(evidence(3, []), EXEMPLAR) == "“king” after “so said the old grey”"
    bare = annotated(tmp_path / "bare", percentiles=(2,), annotate=False)[0]
    assert Labels.read(bare).best(EMPTY).text == Labels.read(d).best(EMPTY).text


def test_labels_of_hostile_tokens_fit_on_a_line(d):
    for label in Labels.read(d).every()[: len(HOSTILE)]:
        assert label.text.isprintable() and 0 < len(label.text) <= LIMIT


# What a server answers: by what the request's prompt holds, or else a label.
class Server(ThreadingHTTPServer):
    """Speaks chat completions on a port of this machine, and remembers what it was asked."""

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked, self.lock = answer, [], threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        assert [message["role"] for message in request["messages"]] == ["system", "user"]
        with self.server.lock:
            self.server.asked.append(request | {"key": self.headers["Authorization"]})
            count = len(self.server.asked)
        status, body, *headers = self.server.answer(request, count)
        if isinstance(body, str):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": body}}
            body = {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "choices": [choice],
            }
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # a client that waits no longer
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def ask(d, server, regions, model="m"):
    planned = questions.plan(d, regions, model)
    return endpoint.ask(d, planned, endpoint.connect(server.url, "secret"))


def test_answers_become_labels_and_are_not_asked_for_again(d):
    with Server(lambda request, count: (200, "words that rhyme")) as server:
        outcome = ask(d, server, [1, 2, 3])
        assert sorted(label.region for label in outcome.labels) == [1, 2, 3] and not outcome.failures
        assert Labels.read(d).best(2).text == "words that rhyme" and Labels.read(d).best(2).source == "endpoint:m"
        assert {request["key"] for request in server.asked} == {"Bearer secret"}
        before = (d.path / "labels.json").read_bytes()
        assert ask(d, server, [1, 2, 3]).labels == [] and len(server.asked) == 3
        assert (d.path / "labels.json").read_bytes() == before
        ask(d, server, [3, 4])
        assert len(server.asked) == 4
        ask(d, server, [4], model="another")
        assert len(server.asked) == 5
        assert [label.source for label in Labels.read(d).all(4)] == [
            *("endpoint:another", "endpoint:m", "contrast", "tokens")
        ]


def test_a_changed_prompt_is_asked_again(d):
    with Server(lambda request, count: (200, f"answer {count}")) as server:
        ask(d, server, [1])
        stale = Labels.read(d).best(1).model_copy(update={"prompt": "0" * 64})
        Labels.read(d).add([stale])
        ask(d, server, [1])
    assert Labels.read(d).best(1).text == "answer 2"


def test_the_prompt_shows_the_evidence(d):
    region = 20
    text, left_out = questions.prompt(d, region), held_out(d.annotation.examples(region))
    row = d.annotation.region(region)
    for kind in ("nearest", "random"):
        for example in d.annotation.examples(region, kind):
            marked = f"{example['tokens'][example['at'] - 1]}<<{example['tokens'][example['at']]}>>"
            assert (marked in text) == (example["document"] not in left_out)
    assert json.dumps(row["top_tokens"][0]["token"]) in text
    assert json.dumps(row["mean_lens_top"][0]["token"]) in text
    assert "The only example" in questions.prompt(d, EMPTY)
    for hostile in range(len(HOSTILE)):
        assert all(c.isprintable() or c == "\n" for c in questions.prompt(d, hostile))


def test_failures_are_counted_and_the_rest_is_saved(d):
    regions = list(range(20, 30))
    prompts = {questions.prompt(d, region): region for region in regions}
    limited = []

    def answer(request, count):
        region = prompts[request["messages"][1]["content"]]
        if region == 23 and region not in limited:
            limited.append(region)
            return 429, {"error": {"message": "slow down"}}, ("Retry-After", "0.01")
        answers = {
            20: (401, {"error": {"message": "no such\x1b[31m key"}}),
            21: (200, ""),
            22: (200, "y" * 10_000),
            24: (200, {"choices": []}),
            25: (200, {"unexpected": True}),
            26: (400, {"error": {"message": "bad request"}}),
        }
        return answers.get(region, (200, f"label {region}"))

    with Server(answer) as server:
        outcome = ask(d, server, regions)
    assert {label.region: label.text for label in outcome.labels} == {r: f"label {r}" for r in (23, 27, 28, 29)}
    assert "401" in outcome.failures[20] and outcome.failures[20].isprintable()
    assert "empty" in outcome.failures[21] and "10,000 characters" in outcome.failures[22]
    assert "not a chat completion" in outcome.failures[24] and "not a chat completion" in outcome.failures[25]
    assert "400" in outcome.failures[26]
    assert {label.region for label in Labels.read(d).every() if label.source not in MADE} == {23, 27, 28, 29}


def test_a_model_on_this_machine_labels(d, tiny_folder, tmp_path, monkeypatch):
    """What it says is kept as its own, in a schema that can say so, and not asked for again."""
    from exemplar_partitioning.models.load import load_model

    roomy = shutil.copytree(tiny_folder, tmp_path / "roomy")
    config = json.loads((roomy / "config.json").read_text())
    (roomy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    loaded, planned = load_model(str(roomy)), questions.plan(d, [20, 21], "tiny", "local")
    counts = []
    outcome = local.ask(d, planned, loaded, lambda so_far: counts.append(len(so_far.labels) + len(so_far.failures)))
    assert counts == [2] and {label.source for label in outcome.labels} <= {"local:tiny"}
    stored = unsealed(d.path / "labels.json") if outcome.labels else {"schema_version": "1.1", "labels": []}
    assert stored["schema_version"] == "1.1" and len(stored["labels"]) == len(outcome.labels)
    again = questions.plan(d, [20, 21], "tiny", "local")
    assert again.known == len(outcome.labels) and {q.region for q in again.questions} == set(outcome.failures)
    answers = iter(["a good label", ""])  # a model without training may say nothing that is a label
    monkeypatch.setattr(
        local, "generate", lambda loaded, prompts, **_: [SimpleNamespace(text=next(answers)) for _ in prompts]
    )
    given = local.ask(d, questions.plan(d, [22, 23], "tiny", "local"), loaded)
    assert [(each.region, each.source) for each in given.labels] == [(22, "local:tiny")] and {*given.failures} == {23}
    assert unsealed(d.path / "labels.json")["schema_version"] == "1.1"
    assert questions.plan(d, [22, 23], "tiny", "local").known == 1


def test_when_nothing_is_answered_it_stops_asking(d):
    with Server(lambda request, count: (401, {"error": {"message": "who are you"}})) as server:
        with pytest.raises(ResourceError, match=r"401: .*who are you.* the key"):
            ask(d, server, range(100))
        assert len(server.asked) < 30
    assert not (d.path / "labels.json").exists()


def test_slow_and_absent_servers(d, monkeypatch):
    monkeypatch.setattr(endpoint, "_TIMEOUT", 0.05)
    monkeypatch.setattr(endpoint, "_RETRIES", 0)

    def answer(request, count):
        time.sleep(0.3)
        return 200, "late"

    with Server(answer) as server, pytest.raises(ResourceError, match=r"no answer within 0\.05 s"):
        ask(d, server, [1])
    with pytest.raises(ResourceError, match="Connection error"):
        ask(d, server, [1])


@pytest.mark.parametrize(
    "answer, label",
    [
        ('"Days of the week."', "Days of the week"),
        ("<think>Let me see.\nHm.</think>\n\nDays of the week", "Days of the week"),
        ("Label: days of the week\n\nThey all are.", "days of the week"),
        ("Here is the label:\n**days of the week**", "days of the week"),
        ("- days", "days"),
    ],
)
def test_what_models_put_around_a_label_is_taken_off(answer, label):
    assert questions.label_of(answer) == label


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(EPError, match=re.escape("pip install 'exemplar-partitioning[labels]'")):
        endpoint.connect("http://localhost:1/v1", None)


def test_command_by_hand(d, ep_label):
    assert ep_label(d.path, "--region", 20, "my label")[0] == 0
    shown = json.loads(ep_label(d.path, "--region", 20, "--json")[1])
    assert shown["labels"][0] == {"text": "my label", "source": "hand", "score": 0.5}
    assert [label["source"] for label in shown["labels"][1:]] == ["contrast", "tokens"]
    assert "my label  (hand, detection 0.50)" in ep_label(d.path, "--region", 20)[1]
    removed = ep_label(d.path, "--region", 20, "")[1]
    assert "hand" not in removed and re.search(r"\(contrast[^)]*\)", removed)


def test_command_asks_before_it_sends(d, ep_label):
    with Server(lambda request, count: (200, "a label")) as server:
        command = [d.path, "--endpoint", server.url, "--model", "m", "--top", 3]
        for typed in ("", "n\n"):
            code, _, error = ep_label(*command, typed=typed)
            assert code != 0 and "3 requests to m" in error and not server.asked
        assert re.search(r"About [\d,]+ tokens of prompts.* and 48 of answers", error, re.DOTALL)
        code, out, _ = ep_label(*command, "--json", typed="y\n")
        telling = d.annotation.interest.order[:3]
        assert code == 0 and {label["region"] for label in json.loads(out)["labels"]} == set(telling.tolist())
        code, out, _ = ep_label(*command)
        assert code == 0 and "0 labels saved, 3 there already" in out
        assert len(server.asked) == 3 and {request["key"] for request in server.asked} == {"Bearer none"}


def test_command_tells_what_failed(d, ep_label, monkeypatch):
    monkeypatch.setenv("EP_TEST_KEY", "a secret")
    prompt = questions.prompt(d, 21)

    def answer(request, count):
        return (200, "") if request["messages"][1]["content"] == prompt else (200, "fine \x1b[31m")

    with Server(answer) as server:
        code, out, _ = ep_label(
            d.path, "--endpoint", server.url, "--model", "m", "--regions", "20,21", "--yes", "--key-env", "EP_TEST_KEY"
        )
    assert code == 0 and "1 label saved" in out and "region 21: the answer is empty" in out and "\x1b" not in out
    assert {request["key"] for request in server.asked} == {"Bearer a secret"} and "a secret" not in out


def test_command_interrupted_loses_nothing(d, ep_label):
    """Ctrl-C while some answers are there and others are awaited: the second run asks for those alone."""
    released = threading.Event()

    def answer(request, count):
        if count > 5:
            released.wait(100)
        return 200, f"answer {count}"

    with Server(answer) as server:
        command = [d.path, "--endpoint", server.url, "--model", "m", "--regions", ",".join(map(str, range(20, 32)))]
        with subprocess.Popen(
            [sys.executable, "-m", "exemplar_partitioning", "label", *map(str, command), "--yes"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ) as process:
            while len(server.asked) < 9 and process.poll() is None:  # 5 answered, 4 under way
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            error = process.communicate(timeout=60)[1]
        assert process.returncode == 130 and "answers had so far are saved" in error and "Traceback" not in error
        released.set()
        asked = len(server.asked)
        outcome = json.loads(ep_label(*command, "--yes", "--json")[1])
        assert outcome["known"] == 5 and len(outcome["labels"]) == 7 and len(server.asked) == asked + 7


def test_command_errors(d, tmp_path, ep_label):
    bare = annotated(tmp_path / "bare", percentiles=(2, 8), annotate=False)[0].path
    base = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m"]
    cases = [
        ([d.path], 2, "--region"),
        ([d.path, "--region", "1", *base], 2, "--region"),
        ([d.path, *base[:2]], 2, "--model"),
        ([d.path, "text", *base], 2, "no text"),
        ([d.path, "--local", "smollm2-135m-instruct", *base], 2, "--local"),
        ([d.path, "--local", "smollm2-135m-instruct", "--model", "m"], 2, "not with --local"),
        ([d.path, *base, "--top", "3", "--regions", "1"], 2, "either --top or --regions"),
        ([d.path, *base, "--regions", "1,x"], 2, "1,x"),
        ([d.path, *base, "--regions", "1,120"], 2, "region 120"),
        ([d.path, *base, "--key-env", "EP_NO_SUCH_KEY"], 2, "EP_NO_SUCH_KEY"),
        ([d.path, "--endpoint", "localhost:8000", "--model", "m"], 2, "http://localhost:8000/v1"),
        ([d.path, "--region", "120", "x"], 2, "region 120"),
        ([bare, *base], 2, "ep annotate"),
        ([bare.parent.parent, "--region", "1"], 2, "choose one by site and percentile"),
    ]
    for arguments, expected, word in cases:
        code, _, error = ep_label(*arguments)
        assert (code, word in error) == (expected, True), (arguments, code, error)
