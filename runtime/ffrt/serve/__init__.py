"""The server: an HTTP API over jobs that outlive it, and workers that make videos. Needs the extra `serve`."""
