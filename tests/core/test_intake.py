"""Activations in whatever researchers hold them: the same regions everywhere, or one clear error everywhere."""

import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import sparse

from exemplar_partitioning import Dictionary, ExemplarPartition, LeaderClustering, calibrate
from exemplar_partitioning.core.intake import intake
from exemplar_partitioning.core.nearest import ROWS
from exemplar_partitioning.errors import EPError

N, D = 240, 8
X = np.round(np.random.default_rng(0).normal(size=(N, D)) * 4).astype(np.float32) / 2  # exact in every type below
X[(X == 0).all(axis=1)] = 1
T = torch.from_numpy(X)
FITTED = ExemplarPartition(percentile=10).fit(X)
DICTIONARY = Dictionary(FITTED.center_, FITTED.exemplars_, FITTED.threshold_)


class Frame:
    """As frames of pandas and polars are: columns, a shape, and `to_numpy`."""

    def __init__(self, values):
        self.values, self.shape, self.columns = values, values.shape, [f"c{i}" for i in range(values.shape[1])]

    def to_numpy(self):
        return self.values


def inference():
    with torch.inference_mode():
        return T * 1


def read_only():
    x = X.copy()
    x.setflags(write=False)
    return x


HELD = {
    "tensor": lambda: T,
    "gradients": lambda: T.clone().requires_grad_(),
    "strided": lambda: torch.cat([T, T], dim=1)[:, :D],
    "transposed": lambda: T.T.contiguous().T,
    "inference": inference,
    "negative bit": lambda: torch.imag(torch.complex(T, -T).conj()),
    "uint8 offset": lambda: (T * 2 + 100).to(torch.uint8),
    **{str(dtype): (lambda dtype=dtype: T.to(dtype)) for dtype in (torch.bfloat16, torch.float16, torch.float64)},
    "float8": lambda: T.to(torch.float8_e4m3fn),
    "array": lambda: X,
    **{dtype: (lambda dtype=dtype: X.astype(dtype)) for dtype in (">f4", ">f8", "f2", "f8", "longdouble")},
    "reversed twice": lambda: X[::-1].copy()[::-1],
    "Fortran": lambda: np.asfortranarray(X),
    "columns of a wider one": lambda: np.repeat(X, 2, axis=1)[:, ::2],
    "read-only": read_only,
    "masked": lambda: np.ma.masked_array(X, mask=False),
    "matrix": lambda: np.asmatrix(X),
    "integers": lambda: (X * 2).astype(">i8"),
    "numbers as objects": lambda: X.astype(object),
    "frame": lambda: Frame(X),
    "frame of mixed numbers": lambda: Frame(np.array([[Fraction(float(v)) for v in row] for row in X], object)),
    "lists": lambda: X.tolist(),
    "list of arrays": lambda: list(X),
    "list of tensors": lambda: [row.bfloat16().requires_grad_() for row in T],
    "lists of tensors": lambda: [list(row) for row in T],
    "tuple": lambda: tuple(map(tuple, X.tolist())),
}
REFUSED = {
    "torch sparse": (lambda: T.to_sparse(), "dense; got sparse data"),
    "torch csr": (lambda: T.to_sparse_csr(), "dense; got sparse data"),
    "scipy sparse": (lambda: sparse.csr_array(X), "dense; got sparse data"),
    "objects": (lambda: np.array([[None] * D] * 3, object), "numbers; got an array of objects"),
    "dates": (lambda: X.astype("datetime64[s]"), "real numbers; got datetime64"),
    "text": (lambda: X.astype(str), "real numbers; got <U"),
    "complex": (lambda: X + 1j, "real numbers; got complex"),
    "complex tensor": (lambda: T + 1j, "real numbers; got torch.complex64"),
    "bool": (lambda: X > 0, "real numbers; got bool"),
    "bool tensor": (lambda: T > 0, "real numbers; got torch.bool"),
    "ragged": (lambda: [[1.0, 2.0], [3.0]], "a matrix"),
    "ragged tensors": (lambda: [T[0], T[1, :3]], "a matrix"),
    "meta": (lambda: T.to("meta"), "got a meta tensor"),
    "a string": (lambda: "activations", "real numbers; got <U"),
}
ASKED = {
    "assign": DICTIONARY.assign,
    "distances": DICTIONARY.distances,
    "margins": DICTIONARY.margins,
    "encode": DICTIONARY.encode,
    "binary": lambda x: DICTIONARY.encode(x, "binary"),
    "members": lambda x: DICTIONARY.members(x).count_k,
    "directions": DICTIONARY.assign_directions,
    "decompose": lambda x: DICTIONARY.decompose(x, 3).weights,
    "predict": FITTED.predict,
    "fit": lambda x: ExemplarPartition(percentile=10).fit(x).labels_,
    "partial_fit": lambda x: ExemplarPartition(percentile=10).partial_fit(x).labels_,
    "cluster": lambda x: LeaderClustering(FITTED.center_, FITTED.threshold_).add(x),
    "calibrate": lambda x: calibrate([x], [10]).thresholds[10.0],
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("asked", ASKED)
def test_the_answers_are_those_of_plain_float32(asked):
    for name, held in HELD.items():
        x = held()
        plain = np.asarray(x, np.float32) if "offset" in name or name == "integers" else X
        got, expected = ASKED[asked](x), ASKED[asked](plain.copy())
        for a, b in zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)
            if isinstance(x, torch.Tensor) and asked in ("assign", "distances", "margins", "encode", "binary"):
                assert isinstance(a, torch.Tensor) and not a.requires_grad, name
            elif asked not in ("members", "cluster", "calibrate"):
                assert isinstance(a, np.ndarray) or isinstance(x, torch.Tensor), name


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_the_same_error_everywhere(name, asked):
    held, message = REFUSED[name]
    with pytest.raises(EPError, match=message):
        ASKED[asked](held())


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, np.asfortranarray, lambda x: torch.from_numpy(x).mT.mT])
def test_leading_axes_come_back(kind):
    flat, distance = DICTIONARY.assign(X)
    for shape in ((3, 80), (2, 3, 40)):
        x = kind(X.reshape(*shape, D))
        for given, order in ((x, flat), (x.swapaxes(0, 1), flat.reshape(shape).swapaxes(0, 1).ravel())):
            ids, _ = DICTIONARY.assign(given)
            assert tuple(ids.shape) == tuple(given.shape[:-1])
            np.testing.assert_array_equal(np.asarray(ids).ravel(), order)
        assert tuple(DICTIONARY.distances(x).shape) == (*shape, DICTIONARY.k)
        assert tuple(DICTIONARY.encode(x, "binary").shape) == (*shape, DICTIONARY.k)
        assert FITTED.predict(x).shape == shape
        assert ExemplarPartition(percentile=10).fit(x).labels_.shape == shape
    one, away = DICTIONARY.assign(X[5])
    assert one.shape == () and one == flat[5] and away == distance[5]
    with pytest.raises(EPError, match="Reshape your data"):
        FITTED.predict(X[5])


def test_masked_values_and_values_beyond_float32_have_no_direction():
    x = np.ma.masked_array(X.astype(np.float64), mask=np.zeros(X.shape, bool))
    x[7, 2] = np.ma.masked
    x[9, 1] = 1e39
    ids, _ = DICTIONARY.assign(x)
    assert np.flatnonzero(ids < 0).tolist() == [7, 9]
    with pytest.raises(EPError, match="NaN, infinite or beyond float32, first in row 7"):
        ExemplarPartition(percentile=10).fit(x)


def test_nothing_is_copied_that_is_float32_already():
    assert intake(T)[3:9].data_ptr() == T[3:].data_ptr()
    assert intake(X)[3:9].numpy().base is not None and np.shares_memory(intake(X)[3:9].numpy(), X)
    assert intake(X.reshape(3, 80, D))[90:100].data_ptr() == T[90:].data_ptr()


def test_a_memory_map_is_read_block_by_block(tmp_path):
    """In a process of its own, whose peak is measured: 400 MB on disk of float64, far less in memory."""
    n, d = 50 * ROWS, 512
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (n, d))
    x[:] = np.random.default_rng(0).normal(size=(ROWS, d))[np.arange(n) % ROWS]
    x.flush()
    code = f"""
import resource, numpy as np, torch
from exemplar_partitioning import Dictionary
d = Dictionary(np.zeros({d}), torch.eye({d})[:40], 0.5)
d.assign(np.load({str(tmp_path / "x.npy")!r}, mmap_mode="r")[:{ROWS}])
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024
import threading, time
peak, done = [anonymous()], []
def watch():
    while not done:
        peak.append(anonymous()); time.sleep(0.005)
watcher = threading.Thread(target=watch); watcher.start()
ids, _ = d.assign(np.load({str(tmp_path / "x.npy")!r}, mmap_mode="r"))
done.append(1); watcher.join()
assert len(ids) == {n} and (ids[:{ROWS}] == ids[-{ROWS}:]).all()
print(max(peak) - peak[0])
"""
    grown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert float(grown.stdout) < 60


def test_a_fitted_estimator_weighs_its_dictionary():
    x = np.random.default_rng(1).normal(size=(20_000, 32)).astype(np.float32)
    for fitted in (ExemplarPartition(percentile=10).fit(x), ExemplarPartition(0.5, threshold=0.7).fit(x)):
        again = pickle.loads(pickled := pickle.dumps(fitted))
        assert len(pickled) < fitted.exemplars_.nbytes + fitted.labels_.nbytes + 20_000
        np.testing.assert_array_equal(again.predict(x[:500]), fitted.labels_[:500])
        more = np.random.default_rng(2).normal(size=(300, 32)).astype(np.float32)
        np.testing.assert_array_equal(again.partial_fit(more).exemplars_, fitted.partial_fit(more).exemplars_)
    assert len(pickle.dumps(DICTIONARY)) < DICTIONARY.exemplars.nbytes + 3_000
