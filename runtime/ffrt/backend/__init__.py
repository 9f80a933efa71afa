"""Sessions, providers and graphs: the only package that touches an inference engine."""
