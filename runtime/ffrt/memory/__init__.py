"""How much memory a request takes, how much there is, and the check before it runs."""
