"""Runs as tidy frames: from a sweep's folder, or from what other tools recorded."""
