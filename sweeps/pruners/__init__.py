"""Rules that end a trial before its time, each with a stated reason."""
