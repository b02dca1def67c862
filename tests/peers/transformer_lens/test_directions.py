"""interp-engine takes our export as a DirectionSet and reads our projections."""

import asyncio
import itertools
from pathlib import Path

import pytest
import torch

pytest.importorskip("interp_engine", reason="only `make test-peers` has interp-engine")

from interp_engine.model import EagerModel

import exemplar_partitioning as ep
from exemplar_partitioning.exchange.export import export
from exemplar_partitioning.models.capture import Extractor


@pytest.fixture(scope="module")
def real(tiny_folder, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    options = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 4000}
    ep.build(str(tiny_folder), [text_file], out=out, sites="resid_post.1", percentiles=[10], **options)
    return ep.load(out)


def directions_of(dictionary, folder):
    names = {}
    exec(export(dictionary, "interp-engine", folder), names)  # what we tell people to type
    return names["directions"]


def test_the_projections_of_its_own_forward_pass_are_our_signed_readout(tiny_folder, real, tmp_path):
    directions = directions_of(real, tmp_path / "out")
    prompt_ids = [0, 306, 274, 297, 277, 304, 112]
    (projected_nk,) = asyncio.run(EagerModel(str(tiny_folder), device="cpu").project(prompt_ids, [directions]))
    (x_nd,) = (
        Extractor(EagerModel(str(tiny_folder), device="cpu"), ["resid_post.1"])
        .extract([torch.tensor(prompt_ids).numpy()])
        .values()
    )
    signed_nk = real.encode(x_nd, "signed")
    torch.testing.assert_close(projected_nk, signed_nk, atol=1e-5, rtol=1e-5)
    assert torch.equal(projected_nk.argmax(dim=1), real.assign(x_nd)[0])


def test_the_arrays_are_the_dictionarys(dictionary, activations, tmp_path):
    directions = directions_of(dictionary, tmp_path / "out")
    assert str(directions.point) == dictionary.config.site.name
    assert torch.equal(directions.vectors, dictionary.exemplars)
    projected_nk = activations @ directions.vectors.T + directions.bias
    ours = dictionary.encode(activations, "signed")
    # The bias is subtracted last rather than the centre first: rounding at the length of the activations.
    torch.testing.assert_close(projected_nk, ours, atol=1e-6 * float(activations.norm(dim=1).max()), rtol=0)
    assert torch.equal(projected_nk.argmax(dim=1), dictionary.assign(activations)[0])


def test_every_point_of_ours_is_one_of_theirs():
    from interp_engine import parse_address

    for point, layer in itertools.product(["resid_pre", "resid_post", "attn_out_post", "mlp_out_post"], [0, 7]):
        assert str(parse_address(f"{point}.{layer}")) == f"{point}.{layer}"


def test_how_it_is_loaded_names_the_file(dictionary, tmp_path):
    export(dictionary, "interp-engine", tmp_path / "set")
    assert [path.name for path in Path(tmp_path / "set").iterdir()] == ["direction_set.json"]
