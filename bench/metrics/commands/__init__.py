"""The command line of the metrics: `python -m bench.metrics`."""
