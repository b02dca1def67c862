"""delphi hooks our export for sparsify onto a model."""

import pytest
import torch

pytest.importorskip("delphi.sparse_coders", reason="only `make test-peers` has delphi")

from delphi.config import CacheConfig, ConstructorConfig, RunConfig, SamplerConfig
from delphi.sparse_coders import load_hooks_sparse_coders

import exemplar_partitioning as ep
from exemplar_partitioning.exchange.export import export
from exemplar_partitioning.models.capture import Extractor


@pytest.fixture(scope="module")
def real(tiny_folder, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    options = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 4000}
    ep.build(str(tiny_folder), [text_file], out=out, sites="resid_post.1", percentiles=[10], **options)
    return ep.load_model(str(tiny_folder)), ep.load(out)


def hooks_of(model, folder):
    config = RunConfig(
        cache_cfg=CacheConfig(),
        constructor_cfg=ConstructorConfig(),
        sampler_cfg=SamplerConfig(),
        model="tiny-llama",
        sparse_model=str(folder),
        hookpoints=["layers.1"],
    )
    return load_hooks_sparse_coders(model, config)


def test_features_of_a_hook_point_are_our_readout_and_our_regions(real, tmp_path):
    loaded, dictionary = real
    export(dictionary, "sparsify", tmp_path / "coders" / "layers.1")
    hooks, transcode = hooks_of(loaded.model, tmp_path / "coders")
    assert list(hooks) == ["model.layers.1"] == [dictionary.config.site.module_path] and not transcode
    ids = torch.randint(3, 300, (40,), generator=torch.Generator().manual_seed(0))
    (x_nd,) = Extractor(loaded.model, ["resid_post.1"]).extract([ids.numpy()]).values()
    with torch.no_grad():
        features_nk = hooks["model.layers.1"](x_nd[None])[0]
    torch.testing.assert_close(features_nk, dictionary.encode(x_nd), atol=1e-6, rtol=1e-6)
    assert torch.equal(features_nk.argmax(dim=1), dictionary.assign(x_nd)[0])
