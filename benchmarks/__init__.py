"""Measurements, each as a ratio against what its user would use instead, in one run, medians, in alternating order.

`make benchmarks` runs all of them and writes docs/benchmarks.md.
"""
