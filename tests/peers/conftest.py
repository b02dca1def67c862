"""An annotated dictionary, and activations about as long as a model's, for every peer."""

import pytest
import torch

from annotated import annotated


@pytest.fixture(scope="session")
def dictionary(tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("annotated"), k=600, d=64, percentiles=(2,))[0]


@pytest.fixture(scope="session")
def activations(dictionary):
    """2,000 rows [n, d]: some at exemplars, most in between."""
    generator = torch.Generator().manual_seed(0)
    near_nd = dictionary.exemplars[torch.randint(dictionary.k, (2000,), generator=generator)]
    noise_nd = torch.randn(2000, dictionary.d_model, generator=generator) / 8
    noise_nd[:100] = 0
    return dictionary.center + 40 * (near_nd + noise_nd)
