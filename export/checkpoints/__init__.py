"""Released and trained weights: files, names, tokenizers, streaming."""
