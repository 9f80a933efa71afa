"""What the demo bundle makes of held-out prompts."""
