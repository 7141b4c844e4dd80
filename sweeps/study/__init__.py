"""The Optuna study of a sweep: what is proposed, what is recorded, and how it is stored."""
