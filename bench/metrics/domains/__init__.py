"""What a video of each domain of clips shows, read back from its pixels."""
