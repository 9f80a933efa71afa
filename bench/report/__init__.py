"""README and docs, renewed from the records of the benches."""
