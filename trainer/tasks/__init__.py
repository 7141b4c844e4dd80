"""What can be trained: one file per task, each a `Task`."""
