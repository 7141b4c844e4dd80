"""The reference trainer: tasks, models, schedules, clipping and one readable loop."""
