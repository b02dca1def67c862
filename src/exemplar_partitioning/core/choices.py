"""What may be chosen by name in decomposing, and what holds where nothing is chosen; importable without torch."""

from typing import Literal

Basis = Literal["exemplar", "mean"]
"""Directions of regions: of their exemplars, or of the mean of their members."""
Method = Literal["omp", "mp"]
"""Matching pursuit: orthogonal, or plain."""

STEPS = 32  # of pursuit
READ_STEPS = 8  # where people look at all regions of a token
