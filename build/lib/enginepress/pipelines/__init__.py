"""Pipelines: wiring and cluster settings only."""
