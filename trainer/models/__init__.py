"""Plain PyTorch modules, small enough that a sweep of them fits a laptop."""
