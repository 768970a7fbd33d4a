"""Measurements, in ratios: see docs/performance.md."""
