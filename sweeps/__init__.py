"""Running sweeps: what is searched, who runs what, what the study keeps, and which trials are stopped."""
