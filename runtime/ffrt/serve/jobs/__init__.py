"""Jobs: their states, their table, their files, and who runs them."""
