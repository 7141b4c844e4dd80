"""What people read: the report page, notes in optuna-dashboard, tables in the terminal."""
