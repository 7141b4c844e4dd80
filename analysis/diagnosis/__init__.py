"""What happened to each trial, why, and what to do about it."""
