"""Which settings are truly better, and which tie."""
