"""Text unlike what a dictionary was built from: scores of tokens and documents, and alarms at a rate of your choice."""

from .detector import Detector, DocumentNovelty
from .scores import SCORES, Novelty, token_scores

__all__ = ["SCORES", "Detector", "DocumentNovelty", "Novelty", "token_scores"]
