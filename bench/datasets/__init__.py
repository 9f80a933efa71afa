"""What videos are judged on."""
