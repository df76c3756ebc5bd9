"""Predictions with their variances, as plain arrays."""
