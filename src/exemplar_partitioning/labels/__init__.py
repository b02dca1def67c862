"""Labels of regions: by hand, from tokens, or from a language model; each says where it comes from."""

from .automatic import automatic
from .stored import LIMIT, Label, Labels, one_line

__all__ = ["LIMIT", "Label", "Labels", "automatic", "one_line"]
