"""How much a server costs, how many clients it bears, and how soon it is back: `python -m bench.serving`."""
