"""Networks become graphs, and graphs a bundle."""
