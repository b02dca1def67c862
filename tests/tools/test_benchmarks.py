"""The benchmarks' textbook is the method, our engine finds the same exemplars, and the results are readable."""

import json

import numpy as np
import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import data, measure, textbook

import oracle
from exemplar_partitioning.core.leader import LeaderClustering

FULL = sorted(measure.RESULTS.glob("*.json"))


def stream(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32) + 0.3


def test_textbook_row_by_row_is_the_oracle():
    x_nd, center_d = stream(150, 12), np.full(12, 0.3, np.float32)
    exemplars, births, ids, *_ = oracle.leader_clustering(x_nd, center_d, 0.7)
    clustering = textbook.Clustering(center_d, 0.7)
    joined = np.concatenate([clustering.add_batch(row[None]) for row in x_nd])
    assert clustering.births == births.tolist()
    assert joined.tolist() == ids.tolist()
    np.testing.assert_allclose(clustering.exemplars, exemplars, atol=1e-6)
    counts = [region.count for region in clustering.regions]
    assert counts == np.bincount(ids).tolist()


@pytest.mark.parametrize("batch", [7, 150])
def test_textbook_founds_the_same_regions_in_any_batch(batch):
    x_nd, center_d = stream(150, 12), np.full(12, 0.3, np.float32)
    _, births, *_ = oracle.leader_clustering(x_nd, center_d, 0.7)
    clustering = textbook.Clustering(center_d, 0.7)
    for start in range(0, len(x_nd), batch):
        clustering.add_batch(x_nd[start : start + batch])
    assert clustering.births == births.tolist()


def test_textbook_statistics_are_those_of_its_members():
    x_nd, center_d = stream(120, 8), np.zeros(8, np.float32)
    clustering = textbook.Clustering(center_d, 0.6)
    ids = np.concatenate([clustering.add_batch(part) for part in np.split(x_nd, 4)])
    u_nd = textbook.directions(x_nd, center_d)
    for k, region in enumerate(clustering.regions):
        assert region.mean_direction is not None
        mean_d = u_nd[ids == k].mean(axis=0)
        away = 1 - u_nd[ids == k] @ region.exemplar
        assert region.count == (ids == k).sum()
        assert region.coherence == pytest.approx(np.linalg.norm(mean_d), abs=1e-5)
        np.testing.assert_allclose(region.mean_direction, mean_d / np.linalg.norm(mean_d), atol=1e-5)
        assert region.distance_sum == pytest.approx(away.sum(), abs=1e-4)
        assert region.distance_square_sum == pytest.approx((away**2).sum(), abs=1e-4)


def test_textbook_calibration_is_the_oracles():
    batches, percentile = [stream(40, 6, seed) for seed in range(3)], 10.0
    center_d, threshold = textbook.calibrate(batches, percentile)
    np.testing.assert_allclose(center_d, oracle.centre(batches), atol=1e-6)
    assert threshold == pytest.approx(oracle.threshold(batches, center_d, percentile), abs=1e-6)


def test_engine_and_textbook_agree_on_well_separated_data():
    e_kd, x_nd, threshold = data.clustered_directions(k=50, n=600, d=64)
    theirs = textbook.Clustering(np.zeros(64, np.float32), threshold)
    mine = LeaderClustering(torch.zeros(64), threshold)
    for part in (e_kd, x_nd[:300], x_nd[300:]):
        theirs.add_batch(part)
        mine.add(torch.from_numpy(part))
    assert mine.births.tolist() == theirs.births
    np.testing.assert_allclose(mine.exemplars.numpy(), theirs.exemplars, atol=1e-6)


def _hold_eighty_megabytes():
    return lambda: np.ones(10_000_000)


def test_peak_memory_is_what_the_work_holds():
    assert 0.08 <= measure.peak_memory(_hold_eighty_megabytes) < 0.1


def test_environment_names_no_folder():
    assert all("/" not in str(value) for value in vars(measure.environment()).values())


def test_table_has_a_line_for_each_row():
    sample = measure.Samples([2.0, 1.0, 4.0], [0.0] * 3)
    row = measure.Row("this", sample, sample.times(3), target=">= 2x", found={"k": 1234})
    record = {"benchmark": "x", "quick": False, "rows": [row.record()]}
    assert measure.table([record]).splitlines()[2:] == ["| x | this | 2.0 s | 6.0 s | **3.0x** | >= 2x |  | k 1,234 |"]


@pytest.mark.skipif(not FULL, reason="no benchmark has been run here: `python -m benchmarks`")
@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_results_are_readable(path):
    record = json.loads(path.read_text())
    assert record["benchmark"] in (*command.BENCHMARKS, "faults", "hosts")
    assert record["command"].startswith(f"python -m benchmarks.{record['benchmark']}")
    assert {"seed", "data", "quick", "about"} <= record.keys()
    assert {"cpu", "cores", "bfloat16_units", "torch", "numpy", "commit"} <= record["environment"].keys()
    assert "/work" not in path.read_text() and "/home" not in path.read_text()
    assert record["rows"]
    for row in record["rows"]:
        assert {"what", "ours", "textbook", "ratio", "target", "memory", "found"} == row.keys()
        for side in (row["ours"], row["textbook"]):
            if side is not None:
                assert side["median_s"] > 0 and isinstance(side["disturbed"], bool)
                assert len(side["samples_s"]) == len(side["other_cores"])
