"""Acting on regions while a model runs."""

from .acting import ablate, clamp, project, steer, swap
from .edits import Gate, left_the_manifold

__all__ = ["Gate", "ablate", "clamp", "left_the_manifold", "project", "steer", "swap"]
