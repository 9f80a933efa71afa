"""How a measurement is taken, kept and drawn."""
