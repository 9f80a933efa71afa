"""Passes over one graph, Model -> Model, and the table of which provider each is for."""
