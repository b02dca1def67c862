"""Whatever the program around has set, the core computes the same, and leaves the settings as they were."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import exemplar_partitioning as ep
from exemplar_partitioning.core.nearest import nearest

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
        assert torch.get_default_device().type == device
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    with torch.autocast(device, dtype=dtype):
        yield
        assert torch.is_autocast_enabled(device)


AROUND = {
    "autocast": lambda: autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: autocast("cpu", torch.float16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "meta by default": lambda: default_device("meta"),
    "a device for a while": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "deterministic": deterministic,
}
if torch.cuda.is_available():
    AROUND |= {
        "autocast on CUDA": lambda: autocast("cuda", torch.bfloat16),
        "CUDA by default": lambda: default_device("cuda"),
    }


def everything(x: np.ndarray, device: str, prefilter: str) -> list[bytes]:
    """All that every entry point of the core gives, as bytes."""
    found = ep.calibrate([x[:200], x[200:]], [2, 20])
    clustering = ep.LeaderClustering(found.center, 0.7, device=device, prefilter=prefilter)  # type: ignore[arg-type]
    ids = [clustering.add(part) for part in (x[:70], torch.from_numpy(x[70:]).requires_grad_())]
    d = ep.Dictionary(clustering.center, clustering.exemplars, 0.7, device, prefilter)  # type: ignore[arg-type]
    members = d.members(x)
    partition = ep.ExemplarPartition(percentile=20).fit(x)
    values = [
        *(found.center, found.thresholds[2.0], found.thresholds[20.0], clustering.exemplars.cpu(), clustering.births),
        *(
            clustering.online_counts,
            clustering.sole_counts,
            *ids,
            *d.assign(x),
            d.distances(x),
            d.margins(x),
            members.count_k,
        ),
        *(
            d.encode(x),
            d.encode(x, "signed"),
            d.encode(x, "binary"),
            d.encode(x, "cosine"),
            d.decode(d.encode(x, "topk")),
        ),
        *(members.direction_kd, members.mean_directions, *nearest(x, clustering.exemplars, device=device)),
        *(
            *d.assign_directions(x),
            d.decompose(x, 3).weights,
            partition.exemplars_,
            partition.labels_,
            partition.transform(x),
        ),
    ]
    return [np.asarray(value).tobytes() for value in values]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prefilter", ["float32", "bfloat16"])
@pytest.mark.parametrize("around", AROUND)
def test_settings_of_the_program_around_do_not_matter(around, prefilter, device):
    x = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
    expected = everything(x, device, prefilter)
    with AROUND[around]():
        got = everything(x, device, prefilter)
    assert [a == b for a, b in zip(got, expected, strict=True)] == [True] * len(expected)


def test_what_was_made_in_inference_mode_goes_on_outside():
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    whole = ep.LeaderClustering(torch.zeros(16), 0.3)
    whole.add(x)
    with torch.inference_mode():
        half = ep.LeaderClustering(torch.zeros(16) + 0, 0.3)
        half.add(x[:200] * 1)
    half.add(x[200:])
    assert torch.equal(half.exemplars, whole.exemplars)


def test_batches_are_read_under_the_settings_of_the_program():
    """They may come from a model that wants them."""
    modes = []

    def batches():
        modes.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        yield torch.randn(50, 4, generator=torch.Generator().manual_seed(0))

    class Lazily:
        def __iter__(self):
            return batches()

    with torch.inference_mode(), torch.autocast("cpu"):
        ep.calibrate(Lazily(), [5])
    assert modes == [(True, True)] * 2
