"""Quality of interpolation against the skip value and what moves."""
