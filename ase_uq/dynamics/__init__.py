"""Molecular dynamics that can be stopped, gone on with and rerun with another model."""
