"""Acting on regions while a model runs."""

from .acting import ablate, clamp, project, steer, swap
from .baking import ablate_everywhere, bake
from .edits import Gate, left_the_manifold

__all__ = ["Gate", "ablate", "ablate_everywhere", "bake", "clamp", "left_the_manifold", "project", "steer", "swap"]
