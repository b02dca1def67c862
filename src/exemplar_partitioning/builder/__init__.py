"""From a model and text to a folder of dictionaries: one stream, many sites and percentiles."""

from .run import build
from .settings import BuildResult, BuildSettings, DictionarySummary, Event

__all__ = ["BuildResult", "BuildSettings", "DictionarySummary", "Event", "build"]
