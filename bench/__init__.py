"""Measurements of ffrt: each module is one claim, run as `python -m bench.NAME` from the repository root."""
