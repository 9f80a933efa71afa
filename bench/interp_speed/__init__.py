"""Group interpolation against masked interpolation: cost and quality."""
