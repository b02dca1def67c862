"""Evidence for every region: what its members are, where they come from, what they promote."""

from .folder import FOLDER, Annotation
from .run import AnnotateEvent, annotate

__all__ = ["FOLDER", "AnnotateEvent", "Annotation", "annotate"]
