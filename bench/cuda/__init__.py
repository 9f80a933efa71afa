"""Runs on a GPU, and their rehearsal without one."""
