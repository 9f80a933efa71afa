"""The networks in PyTorch, with their configurations."""
