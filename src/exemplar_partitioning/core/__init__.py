"""The method itself, on any vectors: directions, calibration, leader clustering, nearest exemplars.

Needs numpy and torch alone; the estimator also scikit-learn.
"""
