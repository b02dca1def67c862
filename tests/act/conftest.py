"""A small build of the tiny model that several files act with."""

import pytest

import exemplar_partitioning as ep


@pytest.fixture(scope="session")
def acting(tiny_folder, text_file, tmp_path_factory):
    """The tiny model, and the folder of its dictionaries: two sites, percentiles 2 and 10."""
    out = tmp_path_factory.mktemp("acting") / "out"
    options = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 4000}
    ep.build(str(tiny_folder), [text_file], out=out, sites="resid_post.0,resid_post.1", percentiles=[2, 10], **options)
    return ep.load_model(str(tiny_folder)), out
