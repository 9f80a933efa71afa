"""Numbers for Prometheus: what the server records, and what is read of places and GPUs when they are asked for."""
