"""The command `ffrt`."""
