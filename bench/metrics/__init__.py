"""What videos are judged by."""
