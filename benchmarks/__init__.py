"""Measurements of a real server at real-time pace. Run one with ``python -m benchmarks.turn_taking``."""
