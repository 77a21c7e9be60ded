"""Measuring a cluster: a numbered load, what became of it, throughput beside it, and reports."""
