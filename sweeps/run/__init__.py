"""Running trials: the decision loop, its workers, and what the user sees meanwhile."""
