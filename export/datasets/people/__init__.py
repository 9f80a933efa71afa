"""The domain "people": motion-captured actions, alone and one after another."""
