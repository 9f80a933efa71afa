"""The domains that the demo trains on."""
