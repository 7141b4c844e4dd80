"""Pruning rules tried on curves that are known to their end."""
