"""A sample of the faults that `python -m benchmarks.faults` tries at length."""

import json
import shutil
import subprocess
import sys

import pytest

from exemplar_partitioning.errors import DataError
from exemplar_partitioning.exchange.pickles import read_pickle
from exemplar_partitioning.files import new_folder, write_new
from exemplar_partitioning.folder.group import finish
from explorer_site import served
from faults import disk, hostile, points, pool, subjects, web
from faults.pool import WRONG

CHEAP = [name for name, subject in subjects.SUBJECTS.items() if subject.cost == 1]


def wrong(outcomes):
    return [outcome for outcome in outcomes if outcome.kind == WRONG]


def test_damaged_files_of_every_kind(tmp_path):
    """Five damages of each: an error that says what is wrong, or the same result."""
    for name in CHEAP:
        pristine = tmp_path / name.replace("/", "-")
        pristine.mkdir()
        subjects.SUBJECTS[name].make(pristine)
        work = subjects.damage(subjects.SUBJECTS[name], 1, pristine, tmp_path / "scratch")
        for case in range(5):
            kind, said = work(case)
            assert kind != WRONG, f"{name}, case {case}: {said}"


def test_files_made_to_do_harm(tmp_path):
    cases = [case for case, name in enumerate(hostile.CASES) if not name.startswith("GGUF")]
    assert not wrong(pool.run(hostile.prepare, (str(tmp_path),), cases))


def test_a_pickle_with_a_strange_escape(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"S'\\u'\n.")
    with pytest.raises(DataError, match="STRING"):
        read_pickle(tmp_path / "a.pkl")


def test_a_gguf_header_that_counts_beyond_its_file(tmp_path):
    """Its reader would count to 2^60."""
    with pytest.raises(DataError, match="values in"):
        hostile.CASES["GGUF, an array of 2^60"](tmp_path)


def _dies(name):
    import os
    import signal

    return lambda case: os.kill(os.getpid(), signal.SIGKILL) if case == 1 else (name, "")


def _stops(name):
    import time

    return lambda case: time.sleep(60) if case == 1 else (name, "")


@pytest.mark.parametrize("prepare, said", [(_dies, "exit code -9"), (_stops, "no answer within")])
def test_the_pool_survives_what_its_processes_do_not(prepare, said):
    found = pool.run(prepare, ("fine",), range(3), seconds=2)
    assert {outcome.case: outcome.kind for outcome in found} == {0: "fine", 1: WRONG, 2: "fine"}
    assert said in wrong(found)[0].said


def test_requests_that_no_page_sends(tmp_path):
    counts, bad = web.attack(150, 2, tmp_path)
    assert not bad
    assert min(counts["answered"], counts["refused clearly"]) > 10


def test_a_body_that_nests_without_end(tmp_path):
    subjects.annotated(tmp_path / "build", k=12, percentiles=(2,))
    with served(tmp_path / "build") as address:
        port = int(address.rpartition(":")[2])
        headers = {"Host": "localhost", "Content-Type": "application/json"}
        status, text = web._send(port, "POST", "/api/dictionaries/resid_post.1-p2/read", b"[" * 100_000, headers)
    assert status == 400 and "JSON" in json.loads(text)["error"]


def test_a_verb_killed_at_some_of_its_writes(tmp_path):
    """One of them; all, at every write: `python -m benchmarks.faults points`."""
    fine, coarse = subjects.annotated(tmp_path / "build", k=30, percentiles=(2, 8))
    line = ("match", str(fine.path), str(coarse.path), "--out", "{out}")
    assert points.run(line, tmp_path, tmp_path / "matched").code == 0
    again = points.Verb("match", line, lambda out: shutil.copytree(tmp_path / "matched", out))
    trial = points.Trial(again, tmp_path)
    found = [*trial.at("kill", 2), *trial.at("full", 1), trial.twice()]
    assert not [said for kind, said in found if kind == WRONG]


class TestWriting:
    def test_disks_that_fill_up_at_every_write(self, tmp_path):
        if not disk.may_mount(tmp_path):
            pytest.skip("no small file system can be mounted here")
        for writing in disk.writings(None, None, tmp_path)[2:5]:
            found = disk.full(writing, tmp_path)
            assert not [said for kind, said in found if kind == WRONG]
            assert len(found) > 1

    def test_folders_that_are_read_only(self, tmp_path):
        for folder in (tmp_path, *tmp_path.parents):
            if folder.name.startswith(("test_", "pytest-", "popen-")):
                folder.chmod(0o755)
        for writing in disk.writings(None, None, tmp_path):
            assert disk.read_only(writing, tmp_path)[0] == pool.REFUSED

    def test_several_writers_of_one_folder(self, tmp_path):
        """They used to share a half-written folder, and what came of it held the files of two."""
        for writing in disk.writings(None, None, tmp_path)[:-1]:
            for _ in range(3):
                assert not [said for kind, said in disk.at_once(writing, tmp_path) if kind == WRONG]

    def test_what_a_killed_writer_left_is_no_obstacle(self, tmp_path):
        left = tmp_path / ".d.partial"
        (left / "deep").mkdir(parents=True)
        (left / "deep" / "junk").write_text("x")
        (tmp_path / ".f.partial").write_text("a longer text than what comes")
        with new_folder(tmp_path / "d") as folder:
            (folder / "a").write_text("a")
        write_new(tmp_path / "f", b"short")
        assert [path.name for path in (tmp_path / "d").iterdir()] == ["a"]
        assert (tmp_path / "f").read_bytes() == b"short"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "f"]

    def test_awkward_names(self, tmp_path):
        assert not [said for kind, said in disk.names(tmp_path) if kind == WRONG]


def test_words_that_are_no_text(tmp_path):
    """Bytes that are not UTF-8 ended in a trace of the tokenizer, in seven commands."""
    for line in (["show", "demo", "--text", b"the \xff king"], ["search", "demo", b"\xff"], ["build", b"\xff.txt"]):
        done = subprocess.run([sys.executable, "-m", "exemplar_partitioning", *line], capture_output=True, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith(b"ep: an argument is not UTF-8"), done.stderr


def test_a_journal_that_leads_elsewhere(tmp_path):
    """Of a folder from somebody else: it must move and remove nothing outside."""
    (tmp_path / "out").mkdir()
    for moves in ({"../x": 1}, {"/x": 1}, {"a/../../x": 1}, [], None):
        (tmp_path / "out" / "moves.json").write_text(json.dumps({"moves": moves}))
        with pytest.raises(DataError, match="damaged"):
            finish(tmp_path / "out" / "moves.json", tmp_path / "out")


def test_a_spill_that_was_altered(tmp_path):
    """Activations in it became exemplars as if nothing were."""
    subject = subjects.SUBJECTS["checkpoint of a build"]
    subject.make(tmp_path)
    (path,) = tmp_path.glob("out/.build/spill/*")
    data = bytearray(path.read_bytes())
    data[101] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="not what its checkpoint knows"):
        subject.read(tmp_path)
