"""What a finished sweep says: load, convergence, diagnosis, ranking, replay, figures, report."""
