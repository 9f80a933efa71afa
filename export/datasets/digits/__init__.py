"""The domain "digits": two handwritten digits that bounce."""
