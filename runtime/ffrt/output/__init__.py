"""Outputs that are written whole or not at all: a file, or a folder."""
