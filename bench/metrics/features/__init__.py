"""What sets of videos are compared in: features of a clip that are ours, with names of their own."""
