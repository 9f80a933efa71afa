"""Estimates of memory against measured peaks."""
