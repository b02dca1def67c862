"""The dictionary that ships with the package: whole, small, and there without a model, a network or a build."""

import io
import zipfile

import pytest
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.cli import app
from exemplar_partitioning.demo.dictionary import SHIPPED, packaged
from exemplar_partitioning.files import seal


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_it_is_whole_and_small():
    """Every checksum, and everything the files say of each other."""
    result = CliRunner().invoke(app, ["check", str(SHIPPED)])
    assert result.exit_code == 0, result.output
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in SHIPPED.rglob("*"):
            archive.write(file, file.relative_to(SHIPPED))
    assert packed.tell() <= 3 * 2**20


def test_it_opens_by_name_and_its_copy_takes_labels(cache):
    before = {file: file.read_bytes() for file in SHIPPED.rglob("*") if file.is_file()}
    d = ep.load("demo", percentile=4)
    assert d.annotation is not None and d.config.model.id == "smollm2-135m-instruct"
    assert d.assign(d.exemplars + d.center)[0].tolist() == list(range(d.k))
    label = ["label", "demo", "--percentile", "4", "--region", "3", "a label of mine"]
    assert CliRunner().invoke(app, label).exit_code == 0
    shown = CliRunner().invoke(app, ["show", "demo", "--percentile", "4", "--region", "3"])
    assert shown.exit_code == 0 and "a label of mine" in shown.output
    assert before == {file: file.read_bytes() for file in SHIPPED.rglob("*") if file.is_file()}
    assert ep.load("demo", percentile=8).path.is_relative_to(cache)
    config = d.path / "config.json"
    config.write_bytes(config.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    seal(config)  # consistent, but not what was shipped
    with pytest.raises(ep.EPError, match="not as it was shipped"):
        ep.load("demo", percentile=4)


def test_a_folder_of_that_name_goes_before(cache, tmp_path):
    (tmp_path / "demo").mkdir()
    assert packaged("demo") == "demo"
    with pytest.raises(ep.EPError, match="demo"):
        ep.load("demo", percentile=4)
