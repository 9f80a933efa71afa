"""Passes over one graph, each Model -> Model, and the table of the providers that each is for."""
