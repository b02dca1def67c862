"""Text unlike what a dictionary was built from: scores of tokens and documents, and alarms at a rate of your choice."""

from .detector import Detector, DocumentNovelty, fit
from .scores import SCORES, Novelty, token_scores

__all__ = ["SCORES", "Detector", "DocumentNovelty", "Novelty", "fit", "token_scores"]
