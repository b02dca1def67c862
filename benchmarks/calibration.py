"""Calibration: thresholds from 200,000 real activations (13 batches of 16,256, d = 576).

Textbook: one percentile, `scipy.spatial.distance.pdist` and `numpy.percentile` batch by batch. It is timed on
one batch a turn and multiplied by the number of batches, as it does literally the same for each; its centre
is timed on all. Ours: centre and five percentiles of all batches in one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from exemplar_partitioning.core.calibration import calibrate, pairwise_percentiles

from . import data, textbook
from .measure import Row, alternate, arguments, peak_memory, timed, write

PERCENTILES = (1.0, 2.0, 4.0, 8.0, 10.0)


def load(batches: int, batch: int) -> list[np.ndarray]:
    return np.split(data.activations(batches * batch), batches)


def prepare(side: str, batches: int, batch: int) -> Callable[[], Any]:
    x_bnd = load(batches, batch)
    if side == "ours":
        tensors = [torch.from_numpy(x_nd) for x_nd in x_bnd]
        return lambda: calibrate(tensors, PERCENTILES)
    center_d = textbook.center(x_bnd)
    # the textbook keeps nothing from batch to batch: its peak is that of one
    return lambda: textbook.batch_percentile(x_bnd[0], center_d, PERCENTILES[0])


def main() -> None:
    given = arguments(__doc__)
    batches, batch, turns = (2, 4096, 1) if given.quick else (13, data.BATCH, 3)
    x_bnd = load(batches, batch)
    tensors = [torch.from_numpy(x_nd) for x_nd in x_bnd]
    center_d, center_seconds, _ = timed(lambda: textbook.center(x_bnd))
    found_of_batch = []

    def one_batch_by_pdist() -> None:
        number = len(found_of_batch) % batches
        found_of_batch.append(textbook.batch_percentile(x_bnd[number], center_d, PERCENTILES[number % 5]))

    times, results = alternate({"textbook": one_batch_by_pdist, "ours": lambda: calibrate(tensors, PERCENTILES)}, turns)
    calibration = results["ours"]
    error = 0.0
    for number, theirs in enumerate(found_of_batch[:batches]):
        mine = pairwise_percentiles(tensors[number], torch.from_numpy(center_d), PERCENTILES)
        assert mine is not None
        error = max(error, abs(mine[number % 5] - theirs))
    whole_textbook = times["textbook"].times(batches, center_seconds)
    row = Row(
        "five percentiles (ours) against one (textbook)",
        times["ours"],
        whole_textbook,
        target=">= 60x, error <= 1e-5, <= 0.6 GB",
        memory_ours=peak_memory(prepare, side="ours", batches=batches, batch=batch),
        memory_textbook=peak_memory(prepare, side="textbook", batches=batches, batch=batch),
        found={
            "ratio for five against five": round(5 * whole_textbook.median / times["ours"].median, 1),
            "largest error of a batch's percentile": float(error),
            "largest difference of the centre, of its norm": float(
                np.abs(calibration.center.numpy() - center_d).max() / np.linalg.norm(center_d)
            ),
            "thetas": " ".join(f"{theta:.4f}" for theta in calibration.thresholds.values()),
        },
    )
    write(
        "calibration",
        **data.stated(given, __doc__),
        data={
            **data.described(np.concatenate(x_bnd)),
            "batch": batch,
            "percentiles": PERCENTILES,
        },
        rows=[row],
    )


if __name__ == "__main__":
    main()
