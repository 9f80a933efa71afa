"""Golden numbers of the released implementation, compared."""
