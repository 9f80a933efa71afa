"""PyTorch models, their training and their export to a bundle: the only floor that imports torch."""
