"""The `iolaus` command."""
