"""A concept planted in texts is found, detected on texts that chose nothing, and absent where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.act.concept import Concept, activations
from exemplar_partitioning.cli import app

WORDS = ["fox", "river", "stone", "dog", "old", "grey", "walks", "sees", "under"]


@pytest.fixture(scope="module")
def built(acting):
    loaded, out = acting
    return loaded, ep.load(out, site="resid_post.1", percentile=2)


def texts(n, word, seed):
    rng = np.random.default_rng(seed)
    sentences = [rng.choice(WORDS, size=7).tolist() for _ in range(n)]
    return [" ".join([word, *words] if word else words) for words in sentences]  # at the start, where nothing is before


@pytest.fixture(scope="module")
def found(built):
    loaded, d = built
    return ep.concept(d, loaded, texts(24, "king", 0), texts(24, None, 1), "kings")


def test_a_planted_word_is_found_and_detected(found):
    assert found.report["significant"] and found.report["regions"][0]["p"] < 0.05
    detection = found.report["detection"]
    assert detection["auc"] > 0.9 and detection["misses"][0] < 0.2 and detection["alarms"][0] < 0.2
    assert found.report["words"]["auc"] > 0.9  # and it says that the word alone does
    assert found.report["texts"] == {"positive": 24, "negative": 24, "held_out": 24}


def test_where_there_is_none_held_out_texts_say_so(built):
    loaded, d = built
    none = ep.concept(d, loaded, texts(40, None, 2), texts(40, None, 3), "nothing")
    assert not none.report["significant"]
    assert 0.2 < none.report["detection"]["auc"] < 0.8


def test_the_folder_holds_it_whole(built, found, tmp_path):
    loaded, d = built
    found.save(tmp_path / "kings")
    again = Concept.load(tmp_path / "kings", d)
    assert again.report == json.loads(json.dumps(found.report)) and again.regions == found.regions
    assert torch.equal(again.direction, found.direction)
    x_nd, text_n = activations(d, loaded, ["king walks under"])
    u_nd = torch.from_numpy(x_nd).double() - d.center.double()
    cosine_nr = torch.nn.functional.normalize(u_nd, dim=1) @ d.exemplars[found.regions].double().T
    np.testing.assert_allclose(again.scores(d, x_nd), cosine_nr.max(dim=1).values, atol=1e-6)
    assert (text_n == 0).all()
    record = json.loads((tmp_path / "kings" / "concept.json").read_text())
    record["dictionary"] = "0" * 64
    del record["sha256"]
    (tmp_path / "kings" / "concept.json").write_text(json.dumps(record))
    with pytest.raises(ep.EPError, match="give its own"):
        Concept.load(tmp_path / "kings", d)
    for change, said in (
        ({"regions": [10**6]}, "a region beyond"),
        ({"regions": [0, 1]}, "its direction is not that of its regions"),
        ({"threshold": 3.0}, "threshold"),
        ({"regions": ["0"]}, "regions"),
        ({"format": "x"}, "does not hold a concept"),
    ):
        changed = record | {"dictionary": d.content_id} | change
        (tmp_path / "kings" / "concept.json").write_text(json.dumps(changed))
        with pytest.raises(ep.EPError, match=said):
            Concept.load(tmp_path / "kings", d)
    with pytest.raises(ep.EPError, match="give 8 of each"):
        ep.concept(d, loaded, ["a"], ["b"], "few")


def test_the_commands_find_it_and_watch_for_it(built, tiny_folder, tmp_path):
    _, d = built
    for name, lines in (("with.txt", texts(24, "king", 0)), ("without.txt", texts(24, None, 1))):
        (tmp_path / name).write_text("\n".join(lines))
    given = ["--positive", str(tmp_path / "with.txt"), "--negative", str(tmp_path / "without.txt"), "--name", "kings"]
    out = str(tmp_path / "kings")
    run = CliRunner().invoke(app, ["concept", str(d.path), *given, "--out", out, "--model", str(tiny_folder)])
    assert run.exit_code == 0, run.output
    assert "on held-out texts" in run.output and "probe on means" in run.output
    # what is no text, or has no end, is left out with a word
    lines = b"king walks under\n\n\xff\xfe\n" + b"x" * 3_000_000 + b"\nthe grey dog sees\n"
    command = ["watch", str(d.path), out, "--model", str(tiny_folder), "--json"]
    run = CliRunner().invoke(app, command, input=lines)
    assert run.exit_code == 0, run.output
    assert (
        run.stderr.count("not UTF-8 at byte 0; it is left out")
        == 1
        == run.stderr.count("has more than 1,048,576 bytes")
    )
    flagged, other = [json.loads(line) for line in run.stdout.splitlines()]
    assert any("king" in each["text"] for each in flagged["flagged"])
    assert other["text"] == "the grey dog sees" and other["score"] <= flagged["score"]
    command = ["steer", str(d.path), "--prompt", "the old dog", "--max-new-tokens", "3", "--json", "--model"]
    run = CliRunner().invoke(app, [*command, str(tiny_folder), "--concept", out])
    assert run.exit_code == 0, run.output
    assert (
        json.loads(run.stdout)[0]["steps"][0]["alpha"] == json.loads((Path(out) / "concept.json").read_text())["alpha"]
    )
