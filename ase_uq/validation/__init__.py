"""Judging a model against labels: residuals, scores, calibration."""
