"""The `iolaus` sweeper as a Hydra plugin: `hydra/sweeper=iolaus`."""
