"""Places that make videos: the protocol, and child processes on this machine."""
