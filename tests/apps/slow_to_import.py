"""Stands for torch: each import of this module leaves a line."""

import os
from pathlib import Path

with Path(os.environ["IMPORTS"]).open("a") as file:
    file.write(f"{os.getpid()}\n")
