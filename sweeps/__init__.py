"""Running sweeps: the search, who runs what, what the study keeps, which trials are stopped."""
