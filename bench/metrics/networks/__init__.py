"""Networks that metrics look through: where their weights come from, and their graphs, made once and kept."""
